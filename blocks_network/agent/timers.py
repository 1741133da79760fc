"""One thread that calls functions at their time: held-back status messages, the ends of pipe tasks."""

from blocks_network.transport.timers import Timers

__all__ = ["Timers"]

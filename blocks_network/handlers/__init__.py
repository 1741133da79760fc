"""The built-in handlers, written as a user would write them."""

from blocks_network.handlers.adder import adder_handler
from blocks_network.handlers.echo import echo_handler

__all__ = ["adder_handler", "echo_handler"]

"""The latch on which commands wait for their end."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, signal, threading
from blocks_network.cli.latch import Latch

latch = None
signal.signal(signal.SIGUSR1, lambda *_: latch.set())
for _ in range(2_000):
    latch = Latch()
    sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
    sender.start()
    latch.wait()
    sender.join()
    os.close(latch._read), os.close(latch._write)
print("woken each time")
"""


def test_a_signal_that_comes_just_before_the_wait_ends_it_too() -> None:
    """In a process of its own, whose signals are its own: a waiter that missed one would wait for ever."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "woken each time\n"), done.stderr

"""`blocks-network` with a wall clock that a test steps: a line {"clock_s": N} sets it N seconds off the machine's.

--clock N, before the command's own arguments, sets it from the start. The steady clock stays what it is.
"""

from __future__ import annotations

import json
import sys
import threading
import time

_offset_s = 0
_time, _time_ns = time.time, time.time_ns


def _stepped() -> float:
    return _time() + _offset_s


def _stepped_ns() -> int:
    return _time_ns() + _offset_s * 1_000_000_000


def _listen() -> None:
    global _offset_s
    for line in sys.stdin:
        _offset_s = json.loads(line)["clock_s"]
        print(json.dumps({"clock_s": _offset_s}), flush=True)


if __name__ == "__main__":
    if sys.argv[-2] == "--clock":
        _offset_s = int(sys.argv.pop())
        sys.argv.pop()
    time.time, time.time_ns = _stepped, _stepped_ns
    threading.Thread(target=_listen, name="clock", daemon=True).start()
    from blocks_network.cli.network import main

    sys.exit(main())

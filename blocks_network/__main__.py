"""`python -m blocks_network` is `blocks-run`."""

from __future__ import annotations

import sys

from blocks_network.cli.run import main

if __name__ == "__main__":
    sys.exit(main())

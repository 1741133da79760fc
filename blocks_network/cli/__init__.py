"""The commands: `blocks-run` and `blocks-network`. They parse and print; the work is importable elsewhere."""

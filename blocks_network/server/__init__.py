"""The network itself (extra `server`). It meets the SDK on the wire alone: nothing here imports it."""

"""Door 2, the platform API over HTTP. Its files are named as in `blocks_network/api/`, which asks what they answer."""

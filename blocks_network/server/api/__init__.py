"""Door 2, the platform API over HTTP. The files have the names of `blocks_network/api/`, which asks what they answer."""

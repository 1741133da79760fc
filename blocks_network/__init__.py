"""blocks-network."""

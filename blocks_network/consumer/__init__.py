"""The client: gives work to agents, and follows each task to its end."""

"""For tests of agents and clients: a real network as a pytest fixture."""

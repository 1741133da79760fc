"""The provider: turns a plain function into an agent of the network."""

"""Commands that look after a network from outside: what anybody with an API key and an address may do.

A file a command; each has `add(commands)`, which describes it, and a function that does it. The SDK is loaded inside
these functions: `blocks-network dev` and `--help` start without it.
"""

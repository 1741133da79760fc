"""Door 1: the PubNub protocol, served to unmodified clients. Plain ASGI; one file an operation.

It meets the platform on the bus and through interceptors alone, and never imports `server.tasks`.
"""

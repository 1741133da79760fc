"""Handler registry files."""

from blocks_network.agent.loading import (
    find_handler_entry,
    get_available_handlers,
    load_handler_function,
    load_registry,
)

__all__ = ["find_handler_entry", "get_available_handlers", "load_handler_function", "load_registry"]

"""The client for programs that live on an event loop."""

from blocks_network.consumer.aio.client import AsyncTaskClient
from blocks_network.consumer.aio.session import AsyncTaskResult, AsyncTaskSession
from blocks_network.consumer.aio.streams import AsyncStream, AsyncStreamRef

__all__ = ["AsyncStream", "AsyncStreamRef", "AsyncTaskClient", "AsyncTaskResult", "AsyncTaskSession"]

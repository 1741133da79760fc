"""The client, and what its calls take and give."""

from blocks_network.api.tasks import ListTasksParams, ListTasksResult, TaskInfo
from blocks_network.consumer.aio import AsyncTaskClient
from blocks_network.consumer.client import TaskClient
from blocks_network.consumer.create import create_task_client
from blocks_network.consumer.params import SendMessageParams
from blocks_network.consumer.parts import SendMessageRequestPart, file_part, text_part
from blocks_network.consumer.subscribe import TaskEventCallbacks, TaskSubscription, subscribe_to_task
from blocks_network.errors import AnonTaskAccessDenied, BillingModeMismatchError, RpcError

__all__ = [
    "AnonTaskAccessDenied",
    "AsyncTaskClient",
    "BillingModeMismatchError",
    "ListTasksParams",
    "ListTasksResult",
    "RpcError",
    "SendMessageParams",
    "SendMessageRequestPart",
    "TaskClient",
    "TaskEventCallbacks",
    "TaskInfo",
    "TaskSubscription",
    "create_task_client",
    "file_part",
    "subscribe_to_task",
    "text_part",
]

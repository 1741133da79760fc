"""blocks-network: turns a plain function into a network agent, sends it work, and runs the network between them.

The names below are loaded when they are first used, so that importing one part of the package does not load the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from blocks_network.agent.context import TaskContext
    from blocks_network.agent.credentials import CredentialCache
    from blocks_network.agent.handle import AgentHandle, StopReport
    from blocks_network.agent.instance import start_agent_instance
    from blocks_network.agent.options import AgentInstanceOptions
    from blocks_network.agent.streams import ExternalStreamObject, OnActivateCallback, StreamObject, StreamRegistry
    from blocks_network.api.caller import AuthProvider
    from blocks_network.api.cdm import DEFAULT_CDM_URL, CdmApiConfig, CdmConfig, CdmKeyset, fetch_cdm_config
    from blocks_network.api.files import BLOCKS_MAX_UPLOAD_BYTES, presigned_upload_flow
    from blocks_network.api.registry import AgentEntry, get_agent, register_agent
    from blocks_network.api.tasks import ListTasksParams, ListTasksResult, TaskInfo
    from blocks_network.auth.consumer import ConsumerAuth
    from blocks_network.auth.endpoint import TokenEndpointConfig, TokenResult
    from blocks_network.auth.provider import AgentAuth
    from blocks_network.consumer.aio import AsyncTaskClient, AsyncTaskSession
    from blocks_network.consumer.client import TaskClient
    from blocks_network.consumer.create import create_task_client
    from blocks_network.consumer.delivery import CallbackErrorContext
    from blocks_network.consumer.downloads import download_artifact
    from blocks_network.consumer.params import SendMessageParams
    from blocks_network.consumer.parts import SendMessageRequestPart, file_part, text_part
    from blocks_network.consumer.session import TaskSession
    from blocks_network.consumer.subscribe import TaskEventCallbacks, TaskSubscription, subscribe_to_task
    from blocks_network.errors import (
        AgentAuthFatalError,
        AnonTaskAccessDenied,
        AuthRefreshFailedError,
        BillingModeMismatchError,
        BlocksError,
        FileUploadError,
        RpcError,
        StreamUnavailableError,
    )
    from blocks_network.stream.errors import StreamError
    from blocks_network.stream.inbox import InboundMessage
    from blocks_network.stream.refs import StreamRef
    from blocks_network.transport.pubnub import create_pubnub_client
    from blocks_network.wire.artifacts import (
        ArtifactRef,
        DownloadedArtifact,
        build_artifact_ref,
        decode_inline_artifact,
        should_inline_artifact,
    )
    from blocks_network.wire.channels import ChannelManager, create_channel_manager, task_channel
    from blocks_network.wire.control import ExpireTaskMessage, StartTaskMessage
    from blocks_network.wire.events import TaskEvent
    from blocks_network.wire.parts import RequestPart

    __version__: str

__all__ = [
    "start_agent_instance",
    "StartTaskMessage",
    "ExpireTaskMessage",
    "RequestPart",
    "TaskContext",
    "ArtifactRef",
    "build_artifact_ref",
    "should_inline_artifact",
    "download_artifact",
    "decode_inline_artifact",
    "DownloadedArtifact",
    "create_pubnub_client",
    "ChannelManager",
    "create_channel_manager",
    "task_channel",
    "TaskClient",
    "AsyncTaskClient",
    "AsyncTaskSession",
    "create_task_client",
    "TaskSubscription",
    "subscribe_to_task",
    "TaskEventCallbacks",
    "SendMessageParams",
    "SendMessageRequestPart",
    "TaskSession",
    "TaskEvent",
    "CallbackErrorContext",
    "TaskInfo",
    "ListTasksParams",
    "ListTasksResult",
    "StreamRegistry",
    "CredentialCache",
    "StreamObject",
    "ExternalStreamObject",
    "OnActivateCallback",
    "InboundMessage",
    "StreamError",
    "StreamRef",
    "StreamUnavailableError",
    "AgentAuth",
    "AgentAuthFatalError",
    "AuthProvider",
    "ConsumerAuth",
    "AuthRefreshFailedError",
    "TokenEndpointConfig",
    "TokenResult",
    "fetch_cdm_config",
    "CdmConfig",
    "CdmKeyset",
    "CdmApiConfig",
    "DEFAULT_CDM_URL",
    "text_part",
    "file_part",
    "FileUploadError",
    "presigned_upload_flow",
    "BLOCKS_MAX_UPLOAD_BYTES",
    "RpcError",
    "BillingModeMismatchError",
    "AnonTaskAccessDenied",
    "get_agent",
    "AgentEntry",
    "AgentHandle",
    "StopReport",
    "AgentInstanceOptions",
    "register_agent",
    "BlocksError",
]

_HOMES = {
    "start_agent_instance": "agent.instance",
    "StartTaskMessage": "wire.control",
    "ExpireTaskMessage": "wire.control",
    "RequestPart": "wire.parts",
    "TaskContext": "agent.context",
    "ArtifactRef": "wire.artifacts",
    "build_artifact_ref": "wire.artifacts",
    "should_inline_artifact": "wire.artifacts",
    "download_artifact": "consumer.downloads",
    "decode_inline_artifact": "wire.artifacts",
    "DownloadedArtifact": "wire.artifacts",
    "create_pubnub_client": "transport.pubnub",
    "ChannelManager": "wire.channels",
    "create_channel_manager": "wire.channels",
    "task_channel": "wire.channels",
    "TaskClient": "consumer.client",
    "AsyncTaskClient": "consumer.aio",
    "AsyncTaskSession": "consumer.aio",
    "create_task_client": "consumer.create",
    "TaskSubscription": "consumer.subscribe",
    "subscribe_to_task": "consumer.subscribe",
    "TaskEventCallbacks": "consumer.subscribe",
    "SendMessageParams": "consumer.params",
    "SendMessageRequestPart": "consumer.parts",
    "TaskSession": "consumer.session",
    "TaskEvent": "wire.events",
    "CallbackErrorContext": "consumer.delivery",
    "TaskInfo": "api.tasks",
    "ListTasksParams": "api.tasks",
    "ListTasksResult": "api.tasks",
    "StreamRegistry": "agent.streams",
    "CredentialCache": "agent.credentials",
    "StreamObject": "agent.streams",
    "ExternalStreamObject": "agent.streams",
    "OnActivateCallback": "agent.streams",
    "InboundMessage": "stream.inbox",
    "StreamError": "stream.errors",
    "StreamRef": "stream.refs",
    "StreamUnavailableError": "errors",
    "AgentAuth": "auth.provider",
    "AgentAuthFatalError": "errors",
    "AuthProvider": "api.caller",
    "ConsumerAuth": "auth.consumer",
    "AuthRefreshFailedError": "errors",
    "TokenEndpointConfig": "auth.endpoint",
    "TokenResult": "auth.endpoint",
    "fetch_cdm_config": "api.cdm",
    "CdmConfig": "api.cdm",
    "CdmKeyset": "api.cdm",
    "CdmApiConfig": "api.cdm",
    "DEFAULT_CDM_URL": "api.cdm",
    "text_part": "consumer.parts",
    "file_part": "consumer.parts",
    "FileUploadError": "errors",
    "presigned_upload_flow": "api.files",
    "BLOCKS_MAX_UPLOAD_BYTES": "api.files",
    "RpcError": "errors",
    "BillingModeMismatchError": "errors",
    "AnonTaskAccessDenied": "errors",
    "get_agent": "api.registry",
    "AgentEntry": "api.registry",
    "AgentHandle": "agent.handle",
    "StopReport": "agent.handle",
    "AgentInstanceOptions": "agent.options",
    "register_agent": "api.registry",
    "BlocksError": "errors",
}
"""Where each name lives."""


if not TYPE_CHECKING:  # type checkers read the imports above and stay strict

    def __getattr__(name):
        from importlib import import_module

        if name == "__version__":
            value = import_module("blocks_network.wire.versions").SDK_VERSION
        elif name in _HOMES:
            value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})

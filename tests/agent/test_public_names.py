"""The names, fields and defaults that users of the protocol know: what they import, make and read must stay."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import subprocess
import sys
import threading
from typing import Any

import pytest

import blocks_network
from blocks_network import settings, types
from blocks_network.agent import control, status, tasks
from blocks_network.agent.options import AgentInstanceOptions
from blocks_network.agent.streams.objects import ExternalStreamObject, StreamObject
from blocks_network.agent.streams.task import TaskStreams
from blocks_network.cli.output import ExitCode
from blocks_network.stream import StreamClient, StreamDescriptor, StreamError, multipart, reader
from blocks_network.stream.writer import StreamBundleConfig
from blocks_network.wire import control as wire_control
from blocks_network.wire import frames, setup, timetokens
from blocks_network.wire.cards import streams as streams_of_card

NAMES = {
    "": """start_agent_instance StartTaskMessage ExpireTaskMessage RequestPart TaskContext ArtifactRef
        build_artifact_ref should_inline_artifact download_artifact decode_inline_artifact DownloadedArtifact
        create_pubnub_client ChannelManager create_channel_manager task_channel TaskClient create_task_client
        TaskSubscription subscribe_to_task TaskEventCallbacks SendMessageParams SendMessageRequestPart TaskSession
        TaskEvent CallbackErrorContext TaskInfo ListTasksParams ListTasksResult StreamRegistry CredentialCache
        StreamObject ExternalStreamObject OnActivateCallback InboundMessage StreamError StreamRef
        StreamUnavailableError AgentAuth AgentAuthFatalError AuthProvider ConsumerAuth AuthRefreshFailedError
        TokenEndpointConfig TokenResult fetch_cdm_config CdmConfig CdmKeyset CdmApiConfig DEFAULT_CDM_URL text_part
        file_part FileUploadError presigned_upload_flow BLOCKS_MAX_UPLOAD_BYTES RpcError BillingModeMismatchError
        AnonTaskAccessDenied get_agent AgentEntry""",
    "types": """StartTaskMessage CancelTaskMessage ExpireTaskMessage ControlMessage AnyControlMessage RequestPart
        ArtifactRef AgentInstancePresenceState TaskContext AgentInstanceOptions parse_control_message
        extract_start_task_tokens""",
    "stream": "StreamClient StreamDescriptor StreamError invert_direction InboundMessage",
    "handlers": "echo_handler adder_handler",
    "handlers.echo": "echo_handler",
    "handlers.adder": "adder_handler",
    "task_client": "TaskClient SendMessageParams TaskEventCallbacks create_task_client",
    "artifacts": "build_artifact_ref should_inline_artifact presigned_upload_flow FileUploadError",
    "task_session": "TaskSession",
    "agent_registry": """get_agent fetch_agent_registry fetch_agents_by_tag fetch_agents_by_listing remove_agent
        connect_agent ConnectAgentOptions ConnectAgentResult AgentScaling AgentCard OutputAgentCard AgentEntry
        AgentRegistryResult RegistryAuditEvent with_retry""",
    "handler_loader": "load_registry get_available_handlers find_handler_entry load_handler_function",
    "channel_manager": """ChannelManager create_channel_manager task_channel registry_all_channel registry_tag_channel
        registry_visibility_channel registry_log_channel normalize_tag_slug validate_owner_id""",
    "protocol_version": "PROTOCOL_VERSION SUPPORTED_PROTOCOL_VERSIONS",
    "config": "ARTIFACT_INLINE_LIMIT_BYTES LOG_LEVEL fetch_cdm_config CdmConfig DEFAULT_CDM_URL",
}


@pytest.mark.parametrize("module", NAMES)
def test_what_users_import_is_there(module: str) -> None:
    home = importlib.import_module(f"blocks_network.{module}" if module else "blocks_network")
    for name in NAMES[module].split():
        assert getattr(home, name) is not None
        assert name in home.__all__


def test_what_was_never_public_is_not() -> None:
    for name in ("StreamBundle", "AgentStream", "StreamOptions"):
        assert name not in blocks_network.__all__
        assert not hasattr(blocks_network, name)
    for name in ("open_inbound_stream", "wait_for_stream_end"):
        assert not hasattr(types.TaskContext, name)


REQUIRED = object()


def every(default: object, names: str) -> dict[str, Any]:
    return dict.fromkeys(names.split(), default)


FIELDS: dict[type, dict[str, Any]] = {
    types.RequestPart: {"part_id": None, "text": None, "content_type": None, "artifact_ref": None, "extra": {}},
    types.StartTaskMessage: {
        **{"type": "StartTask", "task_id": "", "agent_name": "", "owner_id": "", "request_parts": []},
        **{"caller_claims": {}, "request_summary": {}, "task_kind": None, "duration": None},
        **{"duration_expires_at_ms": None, "consumer_public_key": None, "has_stream": False, "org_id": None},
        "protocol_version": None,
    },
    types.CancelTaskMessage: {
        **{"type": "CancelTask", "task_id": "", "reason": "", "caller": "", "protocol_version": None}
    },
    types.ExpireTaskMessage: {
        **{"type": "ExpireTask", "task_id": "", "agent_name": "", "reason": "", "protocol_version": None}
    },
    types.ControlMessage: {"type": "", "task_id": "", "caller": "", "protocol_version": None},
    types.ArtifactRef: {
        **{"kind": "inline", "mime_type": "application/octet-stream", "size": 0, "hash": None, "data": None},
        **{"file_name": None, "channel": None, "file_id": None, "expires_at": None},
    },
    types.AgentInstancePresenceState: {
        **{"instance_id": "", "active_tasks": 0, "concurrency": 1, "started_at": 0, "active_streams": 0},
        **{"preferred_protocol_version": "", "protocol_versions": []},
    },
    AgentInstanceOptions: {
        "card": REQUIRED,
        **every(
            None,
            """agent_name handler on_start_task on_cancel_task on_error concurrency expected_instances
            max_pending_backlog max_running_time_sec pubnub token listing base_url cdm_url instance_id description tags
            card_ref card_summary user_id artifact_base_path log_channel capabilities heartbeat_ms""",
        ),
    },
    blocks_network.AgentEntry: {
        **every(
            REQUIRED, """agent_name name description tags scaling card card_ref card_summary listing billing_mode"""
        ),
        **{"created_at": None, "updated_at": None},
    },
    blocks_network.InboundMessage: {
        **{"data": REQUIRED, "seq": REQUIRED, "ts": REQUIRED, "format": REQUIRED, "encoding": "utf8"}
    },
    StreamDescriptor: {
        **every(
            REQUIRED, """task_id stream_id agent_name channel token agent_direction local_direction format affinity"""
        ),
        **{"metadata": None, "declared_stream": None},
    },
    StreamBundleConfig: {"max_message_size": 16384, "bundle_size_bytes": 4096, "max_latency_ms": 250, "uuid": ""},
}


@pytest.mark.parametrize("kind", FIELDS, ids=lambda kind: kind.__name__)
def test_a_data_class_has_its_fields_in_their_order_with_their_defaults(kind: Any) -> None:
    expected = FIELDS[kind]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    order = [name for name in fields if name in expected]
    if kind is not AgentInstanceOptions:  # which is made with keywords
        assert order == list(expected)
    assert set(order) == set(expected)
    for name, default in expected.items():
        field = fields[name]
        has_none = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        assert has_none == (default is REQUIRED), name
        if default is not REQUIRED:
            made = field.default if field.default is not dataclasses.MISSING else field.default_factory()
            assert made == default, name
    for name in fields.keys() - expected.keys():  # ours: they must never be needed
        field = fields[name]
        assert field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING, name


def test_options_without_a_card_are_a_type_error() -> None:
    with pytest.raises(TypeError):
        AgentInstanceOptions()  # type: ignore[call-arg]
    assert next(iter(dataclasses.fields(AgentInstanceOptions))).name == "card"


SIGNATURES: dict[Any, str] = {
    blocks_network.build_artifact_ref: "*, data, mime_type, size, hash, file, file_name, inline_limit",
    blocks_network.should_inline_artifact: "size_bytes, inline_limit",
    blocks_network.presigned_upload_flow: """base_url, file_data, *, role, file_name, mime_type, agent_name, task_id,
        part_id, output_id, upload_session_id, agent_auth, auth_provider""",
    blocks_network.create_pubnub_client: """*, user_id, publish_key, subscribe_key, presence_timeout,
        subscribe_retry_unbounded, on_retry""",
    blocks_network.get_agent: "agent_name, base_url, api_key",
    importlib.import_module("blocks_network.agent_registry").fetch_agent_registry: "limit, cursor, base_url, api_key",
    importlib.import_module("blocks_network.agent_registry").remove_agent: "agent_name, base_url, reason",
    importlib.import_module("blocks_network.agent_registry").with_retry: "fn, max_retries, base_delay_ms",
    blocks_network.fetch_cdm_config: "url",
    blocks_network.FileUploadError: "message, status_code",
    blocks_network.AgentAuth: "api_key, base_url",
    blocks_network.AgentAuth.init: "self, registration_payload",
    blocks_network.AgentAuth.authenticated_request: "self, url, method, body, headers",
    blocks_network.CredentialCache.set: "self, task_id, *, owner_id, write_token, agent_name, environment, org_id",
    blocks_network.TaskContext: """task_id, has_stream, consumer_public_key, report_status, create_stream,
        download_input_artifact, publish_artifact, cancel_event, task_client""",
    TaskStreams.create_stream: """self, *, direction, on_activate, metadata, external, format, bundle_size_bytes,
        max_latency_ms, declared_stream, subscribe_grace_ms""",
    ExternalStreamObject.activate: "self, *, metadata",
    StreamClient: """*, subscribe_key, publish_key, token, agent_name, stream_id, channel, format, direction,
        max_message_size, bundle_size_bytes, max_latency_ms, gating, reorder_timeout_ms, affinity""",
    StreamClient.from_descriptor: """descriptor, *, subscribe_key, publish_key, max_message_size, bundle_size_bytes,
        max_latency_ms, gating, reorder_timeout_ms, consumer_user_id""",
    StreamClient.write_periodic: "self, interval_sec, generator, stop_event",
    blocks_network.StreamRef.open: "self, *, reorder_timeout_ms",
    blocks_network.StreamRegistry.acquire: "self, stream_id, task_id, *, direction, format, external, affinity",
    blocks_network.StreamRegistry.release: "self, stream_id, task_id",
    StreamError: "category, error, channel, timestamp, fatal",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_a_function_takes_its_arguments_in_their_order(function: Any) -> None:
    expected = [name.strip() for name in SIGNATURES[function].split(",")]
    if "*" in expected:
        positional, keywords = expected[: expected.index("*")], expected[expected.index("*") + 1 :]
    else:
        positional, keywords = expected, []
    parameters = inspect.signature(function).parameters.values()
    assert [each.name for each in parameters if each.kind is not each.KEYWORD_ONLY] == positional
    ours = [each for each in parameters if each.kind is each.KEYWORD_ONLY]
    assert [each.name for each in ours if each.name in keywords] == keywords
    assert all(each.default is not each.empty for each in ours if each.name not in keywords)


MEMBERS: dict[type, str] = {
    blocks_network.TaskContext: "checkpoint is_cancelled is_expired task_client report_status",
    StreamObject: "stream_id channel is_active external uuid write end inbound bytes events as_file on_end on_error",
    ExternalStreamObject: """stream_id channel external token is_active activate end on_end write inbound uuid bytes
        events as_file on_error""",
    StreamClient: """is_active channel uuid write end inbound bytes events as_file on_end on_inbound_done on_error
        consume_in_background write_periodic from_descriptor""",
    blocks_network.StreamRef: "descriptor is_open open",
    blocks_network.StreamRegistry: """acquire release force_remove release_all_for_task get active_stream_count
        stream_ids clear""",
    blocks_network.CredentialCache: "set get add_stream remove has task_ids clear",
    blocks_network.AgentAuth: "init get_access_token get_api_key refresh authenticated_request",
    blocks_network.ChannelManager: """agent_name control_channel task_channel stream_channel stream_wildcard obs_channel
        task_metadata_channel parse_task_metadata_channel user_task_pattern agent_wildcard""",
    blocks_network.AgentHandle: """stop agent_name instance_id task_client pubnub publish_terminal fail_stream
        cdm_config""",
}


@pytest.mark.parametrize("kind", MEMBERS, ids=lambda kind: kind.__name__)
def test_an_object_has_its_members(kind: type) -> None:
    known = set(dir(kind)) | set(re.findall(r"\bself\.([a-z_]+)", inspect.getsource(kind)))
    assert [name for name in MEMBERS[kind].split() if name not in known] == []


CONSTANTS = [
    (blocks_network.BLOCKS_MAX_UPLOAD_BYTES, 1_073_741_824),
    (blocks_network.DEFAULT_CDM_URL, "https://config.blocks.ai/config.json"),
    (status.THROTTLE_S, 1.0),
    ((control.PRESENCE_TIMEOUT_S, control.HEARTBEAT_S), (20, 9)),
    (wire_control.PIPE_MAX_MINUTES, 43_200),
    ((tasks.REMEMBERED, tasks.REMEMBERED_S, tasks.EARLY_CANCEL_S), (10_000, 3600, 60)),
    (setup.MAX_STREAM_ID_BYTES, 92),
    (dict(frames.FIRST_SEQ), {"bytes": 0, "events": 1}),
    (frames.ENVELOPE_RESERVE_BYTES, 512),
    ((multipart.STALE_S, multipart.MAX_GROUPS), (30, 64)),
    (reader.REORDER_TIMEOUT_MS, 750),
    (timetokens.ALL_CACHED, 1000),
    (
        {code.name: int(code) for code in ExitCode},
        {"OK": 0, "FAILED": 1, "USAGE": 2, "NETWORK": 3, "TIMEOUT": 124, "INTERRUPTED": 130},
    ),
]


@pytest.mark.parametrize(("value", "expected"), CONSTANTS)
def test_a_number_that_others_count_on(value: object, expected: object) -> None:
    assert value == expected


VARIABLES: dict[str, Any] = {
    "BLOCKS_API_KEY": None,
    "BLOCKS_CDM_URL": None,
    "BLOCKS_BACKEND_URL": None,
    "BLOCKS_SUBSCRIBE_KEY": None,
    "BLOCKS_PUBLISH_KEY": None,
    "BLOCKS_CLI_VERSION": None,
    "BLOCKS_PROFILE": None,
    "BLOCKS_DEBUG_INTERNAL": None,
    "LOG_LEVEL": "info",
    "ARTIFACT_INLINE_LIMIT_BYTES": 16384,
    "AGENT_SHUTDOWN_GRACE_SEC": 3.0,
    "STREAM_MAX_MESSAGE_SIZE": 16384,
    "STREAM_BUNDLE_SIZE": 4096,
    "STREAM_MAX_LATENCY_MS": 250,
    "STREAM_GATING": True,
}


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_is_read_when_it_is_needed_and_nonsense_counts_as_unset(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (setting,) = [each for each in settings.ALL_SETTINGS if each.name == name]
    monkeypatch.delenv(name, raising=False)
    assert setting.read() == VARIABLES[name]
    monkeypatch.setenv(name, "")
    assert setting.read() == VARIABLES[name]
    monkeypatch.setenv(name, "12")
    if isinstance(VARIABLES[name], bool):
        assert setting.read() is False
    elif isinstance(VARIABLES[name], int | float):
        assert setting.read() == 12
        monkeypatch.setenv(name, "nonsense")
        assert setting.read() == VARIABLES[name]
    else:
        assert setting.read() == ("info" if name == "LOG_LEVEL" else "12")


def test_no_other_variable_is_known() -> None:
    assert {each.name for each in settings.ALL_SETTINGS} == set(VARIABLES)


def test_a_context_made_by_hand_serves_a_test_of_a_handler() -> None:
    ctx = blocks_network.TaskContext()
    assert (ctx.task_id, ctx.has_stream, ctx.consumer_public_key, ctx.task_client) == ("", False, None, None)
    ctx.report_status("said to nobody")
    ctx.checkpoint()
    assert isinstance(ctx.cancel_event, threading.Event)
    assert (ctx.is_cancelled, ctx.is_expired) == (False, False)
    ctx.cancel_event = threading.Event()
    ctx.cancel_event.set()
    assert ctx.is_cancelled
    for method in ("create_stream", "download_input_artifact", "publish_artifact"):
        with pytest.raises(RuntimeError, match=method):
            getattr(ctx, method)()


def test_a_presence_state_has_all_seven_fields_always() -> None:
    assert list(types.AgentInstancePresenceState().to_dict()) == [
        *("instanceId", "activeTasks", "concurrency", "startedAt", "activeStreams"),
        *("preferredProtocolVersion", "protocolVersions"),
    ]


def test_messages_come_back_as_they_went() -> None:
    wire = {
        **{"type": "StartTask", "taskId": "t", "agentName": "a", "ownerId": "o", "orgId": "org", "taskKind": "pipe"},
        **{"requestParts": [{"partId": "p", "text": "", "odd": 1}], "callerClaims": {"sub": "s"}, "duration": 5},
        **{"durationExpiresAtMs": 7, "hasStream": True, "protocolVersion": "2026-05-01"},
    }
    assert types.StartTaskMessage.from_dict(wire).to_dict() == wire
    for kind in ("CancelTask", "ExpireTask", "PauseTask", "ResumeTask", "RetryTask", "TerminateTask"):
        wire = {"type": kind, "taskId": "t", "protocolVersion": "2026-05-01"}
        message = types.parse_control_message(wire)
        assert message is not None
        assert message.to_dict() == wire
    assert types.parse_control_message({"type": "Nothing"}) is None


def test_a_card_without_streams_declares_none() -> None:
    assert streams_of_card({}) == {}


def test_the_package_loads_without_pubnub_and_says_so_where_it_is_needed() -> None:
    program = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pubnub":
            raise ImportError("No module named 'pubnub'")
sys.meta_path.insert(0, Missing())
import blocks_network
from blocks_network import StartTaskMessage, text_part, ChannelManager
try:
    blocks_network.create_pubnub_client(subscribe_key="s")
except ImportError:
    print("missing")
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (found.stdout.strip(), found.stderr) == ("missing", "")


def test_a_client_of_the_programs_own_beats_and_never_gives_up() -> None:
    with pytest.raises(ValueError, match="subscribe_key"):
        blocks_network.create_pubnub_client()
    client = blocks_network.create_pubnub_client(subscribe_key="sub-c-1", publish_key="pub-c-1", presence_timeout=20)
    config = client.config
    assert config.uuid == "blocks-agent"
    assert (config.presence_timeout, config.heartbeat_interval, config.enable_presence_heartbeat) == (20, 9, True)
    assert (config.maximum_reconnection_retries, config.maximum_reconnection_interval) == (43_200, 60)
    assert config.subscribe_request_timeout == 310
    plain = blocks_network.create_pubnub_client(subscribe_key="sub-c-1", subscribe_retry_unbounded=False).config
    assert plain.enable_presence_heartbeat is False
    assert plain.maximum_reconnection_retries != 43_200

"""Finds handlers: in a registry file, beside an agent card, as module:function or path.py:function."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocks_network.agent.importing import import_file, import_module, symbol_of
from blocks_network.errors import HandlerLoadError
from blocks_network.wire.channels import is_agent_name

__all__ = [
    "CARD_FILE",
    "LoadedHandler",
    "find_handler_entry",
    "from_card",
    "from_reference",
    "from_registry",
    "get_available_handlers",
    "load_handler_function",
    "load_registry",
]

PACKAGE_REGISTRY = Path(__file__).resolve().parent.parent / "registry.json"
CARD_FILE = "agent-card.json"
_ORIGIN = "_registry_file"
"""Where an entry's paths are relative to; not part of the file's format."""


@dataclass(frozen=True, slots=True)
class LoadedHandler:
    """A handler with what an instance needs to know. `derived` says that the card was made here, for local use."""

    name: str
    agent_name: str
    function: Callable[..., Any]
    card: dict[str, Any]
    derived: bool = False
    concurrency: int | None = None
    expected_instances: int | None = None
    max_pending_backlog: int | None = None
    max_running_time_sec: int | None = None
    requires_env: tuple[str, ...] = field(default=())
    files: tuple[Path, ...] = field(default=())
    """What it was loaded from, as far as that is files: its own, its card's, its registry's."""

    def missing_env(self) -> list[str]:
        """Required variables that are unset or empty."""
        return [name for name in self.requires_env if not os.environ.get(name)]


def load_registry(path: str | Path | None = None) -> dict[str, Any]:
    """The registry file's content; the package's own when no path is given. HandlerLoadError names the fault."""
    file = Path(path) if path is not None else PACKAGE_REGISTRY
    registry = _read_json(file, "Handler registry")
    if not isinstance(registry, dict):
        raise HandlerLoadError(f"{file}: a handler registry is a JSON object")
    version, handlers = registry.get("schemaVersion"), registry.get("handlers")
    if not isinstance(version, str) or not version:
        raise HandlerLoadError(f"{file}: schemaVersion is missing", hint='write "schemaVersion": "1.0"')
    if not isinstance(handlers, list) or not handlers:
        raise HandlerLoadError(f"{file}: handlers must be a non-empty array")
    for index, entry in enumerate(handlers):
        if not isinstance(entry, dict):
            raise HandlerLoadError(f"{file}: handlers[{index}] is not an object")
        if entry.get("runtime") == "python" and (not isinstance(entry.get("name"), str) or not entry["name"]):
            raise HandlerLoadError(f"{file}: handlers[{index}].name is {entry.get('name')!r}, not a name")
        entry[_ORIGIN] = str(file.resolve())
    return registry


def get_available_handlers(registry: Mapping[str, Any], runtime: str = "python") -> list[dict[str, Any]]:
    """The entries of one runtime, in their order."""
    return [entry for entry in registry.get("handlers", []) if entry.get("runtime") == runtime]


def find_handler_entry(registry: Mapping[str, Any], name: str, runtime: str = "python") -> dict[str, Any] | None:
    return next((entry for entry in get_available_handlers(registry, runtime) if entry.get("name") == name), None)


def load_handler_function(entry: Mapping[str, Any]) -> Callable[..., Any]:
    """The function of an entry. Paths are relative to their registry file; the package's are modules of it."""
    entrypoint = entry.get("entrypoint")
    path = entrypoint.get("path") if isinstance(entrypoint, Mapping) else None
    symbol = entrypoint.get("symbol") if isinstance(entrypoint, Mapping) else None
    for key, value in (("path", path), ("symbol", symbol)):
        if not isinstance(value, str) or not value:
            raise HandlerLoadError(f"{_place(entry)}: entrypoint.{key} is missing")
    path, symbol = str(path), str(symbol)
    origin = Path(entry.get(_ORIGIN) or PACKAGE_REGISTRY)
    if origin == PACKAGE_REGISTRY:
        module = path.removeprefix("./").removesuffix(".py").replace("/", ".")
        return symbol_of(import_module(f"blocks_network.{module}"), symbol, path)
    return symbol_of(import_file(origin.parent / path), symbol, path)


def from_registry(name: str, registry_path: str | Path | None = None) -> LoadedHandler:
    """A handler by its name in a registry file."""
    registry = load_registry(registry_path)
    entry = find_handler_entry(registry, name)
    if entry is None:
        if name.endswith(".py"):
            raise HandlerLoadError(f"{name} names no function", hint=f"write --handler {name}:function")
        known = ", ".join(str(e.get("name")) for e in get_available_handlers(registry)) or "none"
        raise HandlerLoadError(
            f"Unknown handler {name!r}",
            hint=f"available: {known}; or name a function of your own: --handler module:function or path.py:function",
        )
    agent_name = entry.get("agentName")
    if not is_agent_name(agent_name):
        raise HandlerLoadError(f"{_place(entry)}: agentName {agent_name!r} is not made of letters, digits and _")
    defaults, where = _section(entry, "defaults"), f"{_place(entry)}: defaults"
    concurrency = _number(defaults, "concurrency", where)
    return LoadedHandler(
        name=name,
        agent_name=str(agent_name),
        function=load_handler_function(entry),
        card=derive_card(str(agent_name), entry.get("name"), entry.get("description"), entry.get("tags")),
        derived=True,
        concurrency=_number(defaults, "maxThreads", where) if concurrency is None else concurrency,
        expected_instances=_number(defaults, "expectedInstances", where),
        requires_env=_variables(entry),
        files=_files(entry),
    )


def _place(entry: Mapping[str, Any]) -> str:
    """Where an entry stands, for faults."""
    return f"{entry.get(_ORIGIN) or PACKAGE_REGISTRY}: handler {entry.get('name')!r}"


def _variables(entry: Mapping[str, Any]) -> tuple[str, ...]:
    required = entry.get("requiresEnv") or []
    if not isinstance(required, list) or not all(isinstance(name, str) and name for name in required):
        raise HandlerLoadError(
            f"{_place(entry)}: requiresEnv is no list of names of variables", hint='write "requiresEnv": ["A_KEY"]'
        )
    return tuple(required)


def _files(entry: Mapping[str, Any]) -> tuple[Path, ...]:
    """None for the package's own: they do not change while they run."""
    origin = Path(entry.get(_ORIGIN) or PACKAGE_REGISTRY)
    return () if origin == PACKAGE_REGISTRY else (origin, (origin.parent / entry["entrypoint"]["path"]).resolve())


def from_reference(reference: str) -> LoadedHandler:
    """`module:function` (imported from the working directory too) or `path/to/file.py:function`."""
    place, _, symbol = reference.rpartition(":")
    if not place or not symbol:
        raise HandlerLoadError(f"{reference!r} names no function", hint="write module:function or path.py:function")
    if place.endswith(".py"):
        module = import_file(Path(place))
    else:
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        module = import_module(place)
    function = symbol_of(module, symbol, place)
    stem = Path(place).stem if place.endswith(".py") else place.rpartition(".")[2]
    name = symbol if symbol not in ("handler", "handle", "main") else stem
    agent_name = "".join(char if char.isascii() and char.isalnum() else "_" for char in name).strip("_") or "agent"
    lines = (function.__doc__ or "").strip().splitlines()
    return LoadedHandler(
        name=reference,
        agent_name=agent_name,
        function=function,
        card=derive_card(agent_name, name, lines[0] if lines else None, None),
        derived=True,
        files=(Path(module.__file__).resolve(),) if module.__file__ else (),
    )


def from_card(path: Path) -> LoadedHandler:
    """The handler of an agent card; its file is relative to the card."""
    card = _read_json(path, "Agent card")
    if not isinstance(card, dict):
        raise HandlerLoadError(f"{path}: an agent card is a JSON object")
    identity, runtime = _section(card, "identity"), _section(card, "runtime")
    agent_name = identity.get("agentName")
    if not is_agent_name(agent_name):
        raise HandlerLoadError(f"{path}: identity.agentName is {agent_name!r}", hint="use letters, digits and _")
    handler = runtime.get("handler")
    if not isinstance(handler, str) or not handler:
        raise HandlerLoadError(f"{path}: runtime.handler is missing", hint="name its file, relative to the card")
    export = runtime.get("handlerExport") or "handler"
    return LoadedHandler(
        name=str(agent_name),
        agent_name=str(agent_name),
        function=symbol_of(import_file(path.resolve().parent / handler), str(export), handler),
        card=card,
        concurrency=_number(runtime, "concurrency", f"{path}: runtime"),
        expected_instances=_number(runtime, "expectedInstances", f"{path}: runtime"),
        max_pending_backlog=_number(runtime, "maxPendingBacklog", f"{path}: runtime"),
        max_running_time_sec=_number(runtime, "maxRunningTimeSec", f"{path}: runtime"),
        files=(path.resolve(), (path.resolve().parent / handler).resolve()),
    )


def _section(card: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = card.get(name)
    return section if isinstance(section, dict) else {}


def derive_card(agent_name: str, name: Any, description: Any, tags: Any) -> dict[str, Any]:
    """A card for a handler that has none: it takes a text or any file, and gives back whatever it returns."""
    return {
        "identity": {
            "agentName": agent_name,
            "displayName": str(name or agent_name),
            "description": str(description or f"The {agent_name} handler"),
            "version": "0.0.0",
        },
        "capabilities": {"taskKinds": ["request", "pipe"], "streaming": True},
        "tags": [tag if isinstance(tag, dict) else {"id": str(tag), "name": str(tag)} for tag in tags or []],
    }


def _read_json(file: Path, what: str) -> Any:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as fault:
        raise HandlerLoadError(f"{what} not found: {file}") from fault
    except (OSError, UnicodeDecodeError) as fault:
        raise HandlerLoadError(f"{what} {file} cannot be read: {fault}") from fault
    try:
        return json.loads(text)
    except ValueError as fault:
        raise HandlerLoadError(f"Invalid JSON in {file}: {fault}") from fault


def _number(section: Any, key: str, where: str) -> int | None:
    value = section.get(key) if isinstance(section, Mapping) else None
    if value is None:
        return None
    try:
        number = int(value)
    except (TypeError, ValueError) as fault:
        raise HandlerLoadError(f"{where}.{key} is {value!r}, not a whole number") from fault
    if number < 0:
        raise HandlerLoadError(f"{where}.{key} is {number}, below 0")
    return number

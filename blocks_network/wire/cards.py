"""Agent cards: what an agent says about itself, checked as a whole and read through accessors.

A card is a plain JSON object and stays one; unknown keys are allowed everywhere. Cards of earlier releases call the
section `tags` `skills`: it is read as tags, and `card_warnings` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blocks_network.wire.channels import is_agent_name

__all__ = [
    "CardFault",
    "agent_name",
    "card_faults",
    "card_summary",
    "card_warnings",
    "consumer_key_required",
    "description",
    "display_name",
    "inputs",
    "is_streaming",
    "public_view",
    "runtime_number",
    "streams",
    "strict_inputs",
    "tags",
    "task_kinds",
]

TASK_KINDS = ("request", "pipe")
STREAM_DIRECTIONS = ("outbound", "inbound", "bidirectional")
STREAM_FORMATS = ("bytes", "events")
STREAM_AFFINITIES = ("dedicated", "shared")
NAME_MAX_CHARS = 128
"""Of an agent, a tag, a part and a stream: channel names and answers are made of them."""
ENTRIES_MAX = 64
"""Tags, inputs, outputs and streams, each: more than a reader of a card takes in, and few enough to list all faults."""
NUMBER_MAX = 1_000_000_000
WHOLE_MAX_DIGITS = 18
RUNTIME_NUMBERS = {"concurrency": 0, "expectedInstances": 1, "maxPendingBacklog": 0, "maxRunningTimeSec": 1}
"""The whole numbers of `runtime`, each with its lowest value; concurrency 0 is "no limit"."""


@dataclass(frozen=True, slots=True)
class CardFault:
    """One thing that is wrong: where (`io.inputs[0].id`), what is there, and what has to be there and why."""

    path: str
    what: str
    why: str

    def __str__(self) -> str:
        return f"{self.path or 'the card'}: {self.what}; {self.why}"

    def to_dict(self) -> dict[str, str]:
        return {"path": self.path, "what": self.what, "why": self.why}


def card_faults(card: object) -> list[CardFault]:
    """Everything that is wrong with a card, at once; empty when it can be registered."""
    if not isinstance(card, Mapping) or not card:
        return [CardFault("", "not an object" if not isinstance(card, Mapping) else "empty", "a card is a JSON object")]
    check = _Checker()
    _check_identity(check, card)
    _check_capabilities(check, card)
    _check_tags(check, card)
    _check_runtime(check, card)
    _check_io(check, card)
    _check_streams(check, card)
    _check_rest(check, card)
    return check.faults


def card_warnings(card: Mapping[str, Any]) -> list[str]:
    """What still works in a card and should be changed, a sentence each."""
    if "skills" not in card:
        return []
    ignored = "; it is ignored beside tags" if "tags" in card else ""
    return [f"the section skills is deprecated: rename it to tags{ignored}"]


class _Checker:
    """Collects faults; each method returns the value when it is usable, so that checks can go on below it."""

    def __init__(self) -> None:
        self.faults: list[CardFault] = []

    def fault(self, path: str, what: str, why: str) -> None:
        self.faults.append(CardFault(path, what, why))

    def section(self, parent: Mapping[str, Any], key: str, at: str = "") -> Mapping[str, Any]:
        """An object that may be absent."""
        value = parent.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.fault(f"{at}{key}", f"{_kind(value)}", "an object is expected")
            return {}
        return value

    def items(self, parent: Mapping[str, Any], key: str, at: str = "") -> list[tuple[str, Mapping[str, Any]]]:
        """The objects of a list that may be absent, each with its path."""
        value = parent.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            self.fault(f"{at}{key}", _kind(value), "a list is expected")
            return []
        if len(value) > ENTRIES_MAX:
            self.fault(f"{at}{key}", f"{len(value)} entries", f"at most {ENTRIES_MAX} are allowed")
        found = []
        for index, item in enumerate(value[:ENTRIES_MAX]):
            path = f"{at}{key}[{index}]"
            if isinstance(item, Mapping):
                found.append((path, item))
            else:
                self.fault(path, _kind(item), "an object is expected")
        return found

    def text(
        self, parent: Mapping[str, Any], key: str, at: str, *, required: bool = False, why: str = ""
    ) -> str | None:
        value = parent.get(key)
        if isinstance(value, str) and (value or not required):
            return value
        if value is None or value == "":
            if required:
                self.fault(f"{at}{key}", "missing", why or "a text is required")
            return None
        self.fault(f"{at}{key}", _kind(value), why or "a text is expected")
        return None

    def name(self, parent: Mapping[str, Any], key: str, at: str, *, why: str) -> str | None:
        """A required text of at most NAME_MAX_CHARS."""
        value = self.text(parent, key, at, required=True, why=why)
        if value is not None and len(value) > NAME_MAX_CHARS:
            self.fault(f"{at}{key}", f"{len(value)} characters", f"at most {NAME_MAX_CHARS} are allowed")
        return value

    def of_type(self, parent: Mapping[str, Any], key: str, at: str, kind: type, word: str) -> None:
        value = parent.get(key)
        if value is not None and not isinstance(value, kind):
            self.fault(f"{at}{key}", _kind(value), f"{word} is expected")

    def choice(self, parent: Mapping[str, Any], key: str, at: str, among: tuple[str, ...], *, required: bool) -> None:
        value = parent.get(key)
        if value is None and not required:
            return
        if value not in among:
            what = "missing" if value is None else _shown(value)
            self.fault(f"{at}{key}", what, f"one of {', '.join(among)} is expected")


def _kind(value: object) -> str:
    names: tuple[tuple[type, str], ...] = (
        (bool, "a boolean"),
        (str, "a text"),
        (int, "a number"),
        (float, "a number"),
        (list, "a list"),
        (Mapping, "an object"),
    )
    return next((word for kind, word in names if isinstance(value, kind)), type(value).__name__)


def _shown(value: object) -> str:
    """A value as it stands in a fault; long ones are cut."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_identity(check: _Checker, card: Mapping[str, Any]) -> None:
    if card.get("identity") is None:
        check.fault("identity", "missing", "it holds the agent's name")
        return
    identity = check.section(card, "identity")
    if not isinstance(card["identity"], Mapping):
        return
    name = check.name(identity, "agentName", "identity.", why="an agent needs a name")
    if name is not None and not is_agent_name(name):
        check.fault("identity.agentName", _shown(name), "only letters, digits and _ are allowed (a hyphen is not)")
    for key in ("displayName", "description", "version"):
        check.text(identity, key, "identity.")


def _check_capabilities(check: _Checker, card: Mapping[str, Any]) -> None:
    capabilities = check.section(card, "capabilities")
    check.of_type(capabilities, "streaming", "capabilities.", bool, "true or false")
    for at, section in (("capabilities.", capabilities), ("runtime.", card.get("runtime"))):
        kinds = section.get("taskKinds") if isinstance(section, Mapping) else None
        if kinds is None:
            continue
        if not isinstance(kinds, list) or not kinds:
            check.fault(f"{at}taskKinds", "empty" if kinds == [] else _kind(kinds), "a list with a kind is expected")
            continue
        for index, kind in enumerate(kinds[:ENTRIES_MAX]):
            if kind not in TASK_KINDS:
                check.fault(f"{at}taskKinds[{index}]", _shown(kind), f"one of {', '.join(TASK_KINDS)} is expected")


def _check_tags(check: _Checker, card: Mapping[str, Any]) -> None:
    section = "tags" if "tags" in card else "skills"
    for path, tag in check.items(card, section):
        check.name(tag, "id", f"{path}.", why="agents are found by it")
        check.text(tag, "name", f"{path}.")
        check.text(tag, "description", f"{path}.")
        check.of_type(tag, "examples", f"{path}.", list, "a list")


def _check_runtime(check: _Checker, card: Mapping[str, Any]) -> None:
    runtime = check.section(card, "runtime")
    for key in ("language", "handler", "handlerExport"):
        check.text(runtime, key, "runtime.")
    for key, low in RUNTIME_NUMBERS.items():
        value = runtime.get(key)
        if value is None:
            continue
        number = _whole(value)
        if number is None or not low <= number <= NUMBER_MAX:
            check.fault(f"runtime.{key}", _shown(value), f"a whole number from {low} to {NUMBER_MAX} is expected")


def _whole(value: object) -> int | None:
    """A whole number, also as text: cards in the wild write "2"."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str):
        digits = value.strip()
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= WHOLE_MAX_DIGITS else None
    return None


def _check_io(check: _Checker, card: Mapping[str, Any]) -> None:
    section = check.section(card, "io")
    for key in ("inputs", "outputs"):
        seen: set[str] = set()
        for path, item in check.items(section, key, "io."):
            name = check.name(item, "id", f"{path}.", why="a part is matched by it")
            if name is not None and name in seen:
                check.fault(f"{path}.id", _shown(name), "another entry has this id already")
            elif name is not None:
                seen.add(name)
            check.text(
                item, "contentType", f"{path}.", required=True, why="a media type such as text/plain is expected"
            )
            check.text(item, "description", f"{path}.")
            check.of_type(item, "required", f"{path}.", bool, "true or false")
            check.of_type(item, "schema", f"{path}.", Mapping, "a JSON Schema object")


def _check_streams(check: _Checker, card: Mapping[str, Any]) -> None:
    declared = check.section(card, "streams")
    if len(declared) > ENTRIES_MAX:
        check.fault("streams", f"{len(declared)} entries", f"at most {ENTRIES_MAX} are allowed")
    for name, stream in list(declared.items())[:ENTRIES_MAX]:
        if not name or len(name) > NAME_MAX_CHARS:
            check.fault("streams", _shown(name), f"a stream's name has 1 to {NAME_MAX_CHARS} characters")
            continue
        at = f"streams.{name}"
        if not isinstance(stream, Mapping):
            check.fault(at, _kind(stream), "an object is expected")
            continue
        check.choice(stream, "direction", f"{at}.", STREAM_DIRECTIONS, required=True)
        check.choice(stream, "format", f"{at}.", STREAM_FORMATS, required=True)
        check.choice(stream, "affinity", f"{at}.", STREAM_AFFINITIES, required=False)
        check.text(stream, "description", f"{at}.")


def _check_rest(check: _Checker, card: Mapping[str, Any]) -> None:
    encryption = check.section(check.section(card, "security"), "encryption", "security.")
    check.of_type(encryption, "consumerKeyRequired", "security.encryption.", bool, "true or false")
    if not isinstance(card.get("services"), list):  # cards in the wild have either
        check.of_type(card, "services", "", Mapping, "an object or a list")
    extensions = check.section(card, "extensions")
    blocks = check.section(extensions, "blocks", "extensions.")
    check.of_type(blocks, "strictInputs", "extensions.blocks.", bool, "true or false")


# --- reading a card: each accessor takes any card that has passed `card_faults`, and is calm about others ---


def _at(card: Mapping[str, Any], *path: str) -> Any:
    value: Any = card
    for key in path:
        value = value.get(key) if isinstance(value, (dict, Mapping)) else None  # a dict is told at once
    return value


def _text_at(card: Mapping[str, Any], *path: str) -> str:
    value = _at(card, *path)
    return value if isinstance(value, str) else ""


def agent_name(card: Mapping[str, Any]) -> str:
    return _text_at(card, "identity", "agentName")


def display_name(card: Mapping[str, Any]) -> str:
    """The name for people; the agent's name where the card has none."""
    return _text_at(card, "identity", "displayName") or agent_name(card)


def description(card: Mapping[str, Any]) -> str:
    return _text_at(card, "identity", "description")


def tags(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tag objects; a card of earlier releases has them under `skills`."""
    section = card.get("tags") if "tags" in card else card.get("skills")
    return [dict(tag) for tag in section if isinstance(tag, Mapping)] if isinstance(section, list) else []


def task_kinds(card: Mapping[str, Any]) -> list[str]:
    """The kinds of tasks that the agent takes: `request` where the card says nothing."""
    for section in ("capabilities", "runtime"):
        kinds = _at(card, section, "taskKinds")
        if isinstance(kinds, list) and kinds:
            return [kind for kind in kinds if isinstance(kind, str)]
    return ["request"]


def streams(card: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Declared streams by name."""
    declared = card.get("streams")
    if not isinstance(declared, Mapping):
        return {}
    return {str(name): dict(stream) for name, stream in declared.items() if isinstance(stream, Mapping)}


def is_streaming(card: Mapping[str, Any]) -> bool:
    """True when the card declares a stream or the streaming capability."""
    return bool(streams(card)) or _at(card, "capabilities", "streaming") is True


def inputs(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The declared inputs, in order."""
    declared = _at(card, "io", "inputs")
    return [dict(item) for item in declared if isinstance(item, Mapping)] if isinstance(declared, list) else []


def strict_inputs(card: Mapping[str, Any]) -> bool:
    """True when parts that do not match the declared inputs are to be refused, not only noted."""
    return _at(card, "extensions", "blocks", "strictInputs") is True


def consumer_key_required(card: Mapping[str, Any]) -> bool:
    return _at(card, "security", "encryption", "consumerKeyRequired") is True


def runtime_number(card: Mapping[str, Any], key: str) -> int | None:
    """`concurrency`, `expectedInstances`, `maxPendingBacklog` or `maxRunningTimeSec`; None where the card is silent."""
    value = _at(card, "runtime", key)
    return None if value is None else _whole(value)


def public_view(card: Mapping[str, Any]) -> dict[str, Any]:
    """The card as others see it: without `runtime`, and with `tags` under that name."""
    view = {key: value for key, value in card.items() if key not in ("runtime", "skills")}
    if "skills" in card and "tags" not in card:
        view["tags"] = tags(card)
    return view


def card_summary(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a list of agents shows of a card."""
    return {
        "taskKinds": task_kinds(card),
        "streaming": is_streaming(card),
        "streams": sorted(streams(card)),
        "inputs": [item.get("id") for item in inputs(card)],
        "version": _text_at(card, "identity", "version"),
    }

"""Regular expressions of capability tokens, matched in linear time: the size of the expression times the name's length.

Whoever may grant writes them, and a request waits for the answer, so an expression must not be able to take long:
there is no backtracking. Characters, classes, `.`, groups, `|`, `* + ? {m,n}` and `^ $` are known; back-references and
look-around are refused. As in the protocol, an expression is searched in the name: `^...$` matches whole names.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Pattern"]

MAX_STEPS = 1_000
"""Size of a compiled expression; counted repeats write their content out."""
MAX_DEPTH = 20
"""Groups within groups."""
MAX_REPEAT = 1_000

Matcher = Callable[[str], bool]
Node = tuple[object, ...]
"""("char", matcher) | ("start",) | ("end",) | ("seq", [nodes]) | ("or", [nodes]) | ("repeat", node, low, high|None)"""

CLASSES: dict[str, Matcher] = {
    "d": str.isdecimal,
    "D": lambda char: not char.isdecimal(),
    "w": lambda char: char.isalnum() or char == "_",
    "W": lambda char: not (char.isalnum() or char == "_"),
    "s": str.isspace,
    "S": lambda char: not char.isspace(),
}
CONTROL = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v"}


class Pattern:
    """One compiled expression. Raises ValueError for what it does not know; matching never raises."""

    __slots__ = ("_anchored", "_program")

    def __init__(self, text: str, *, max_chars: int) -> None:
        if len(text) > max_chars:
            raise ValueError(f"an expression of {len(text)} characters; {max_chars} are allowed")
        program = _Program()
        program.add(_Parser(text).parse())
        program.steps.append(("match",))
        self._program = program.steps
        self._anchored = program.steps[0][0] == "start"

    @property
    def steps(self) -> int:
        """Its size, which with the name's length bounds the time of a match."""
        return len(self._program)

    def found_in(self, name: str) -> bool:
        """Whether it matches anywhere in the name."""
        steps = self._program
        waiting: list[int] = []
        for position in range(len(name) + 1):
            at_start, at_end = position == 0, position == len(name)
            if not self._anchored or at_start:
                waiting.append(0)
            here, matched = self._reach(waiting, at_start, at_end)
            if matched:
                return True
            if at_end or (self._anchored and not here):
                return False
            char = name[position]
            waiting = [index + 1 for index in here if steps[index][1](char)]  # type: ignore[operator]
        return False

    def _reach(self, entries: list[int], at_start: bool, at_end: bool) -> tuple[list[int], bool]:
        """All character steps that can be next from these entries, each once, and whether a match is among them."""
        steps, seen, here = self._program, set[int](), list[int]()
        while entries:
            index = entries.pop()
            if index in seen:
                continue
            seen.add(index)
            step = steps[index]
            kind = step[0]
            if kind == "char":
                here.append(index)
            elif kind == "split":
                entries += [step[1], step[2]]  # type: ignore[list-item]
            elif kind == "match":
                return here, True
            elif (kind == "start" and at_start) or (kind == "end" and at_end):
                entries.append(index + 1)
        return here, False


class _Program:
    """Steps of a small machine: ("char", matcher), ("split", a, b), ("start",), ("end",), ("match",)."""

    def __init__(self) -> None:
        self.steps: list[Node] = []
        self._parts = 0

    def add(self, node: Node) -> None:
        self._parts += 1  # parts of no length count too: repeats of nothing, within each other, would take for ever
        if len(self.steps) > MAX_STEPS or self._parts > 4 * MAX_STEPS:
            raise ValueError("the expression is too large")
        kind = node[0]
        if kind == "seq":
            for part in node[1]:  # type: ignore[attr-defined]
                self.add(part)
        elif kind == "or":
            self._add_choices(node[1])  # type: ignore[arg-type]
        elif kind == "repeat":
            self._add_repeat(*node[1:])  # type: ignore[arg-type]
        else:
            self.steps.append(node)

    def _add_choices(self, choices: list[Node]) -> None:
        ends: list[int] = []
        for choice in choices[:-1]:
            split = self._reserve()
            self.add(choice)
            ends.append(self._reserve())
            self.steps[split] = ("split", split + 1, len(self.steps))
        self.add(choices[-1])
        for end in ends:
            self.steps[end] = ("split", len(self.steps), len(self.steps))

    def _add_repeat(self, node: Node, low: int, high: int | None) -> None:
        for _ in range(low):
            self.add(node)
        if high is None:
            split = self._reserve()
            self.add(node)
            back = self._reserve()
            self.steps[back] = ("split", split, split)
            self.steps[split] = ("split", split + 1, len(self.steps))
            return
        splits: list[int] = []
        for _ in range(high - low):
            splits.append(self._reserve())
            self.add(node)
        for split in splits:
            self.steps[split] = ("split", split + 1, len(self.steps))

    def _reserve(self) -> int:
        self.steps.append(("match",))
        return len(self.steps) - 1


class _Parser:
    """Recursive descent over the text; its depth is bounded."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    def parse(self) -> Node:
        node = self._choices()
        if self._at < len(self._text):
            raise self._wrong("unbalanced parenthesis")
        return node

    def _wrong(self, what: str) -> ValueError:
        return ValueError(f"{what} at character {self._at} of the expression {self._text!r}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self) -> str:
        char = self._peek()
        if not char:
            raise self._wrong("it ends too early")
        self._at += 1
        return char

    def _choices(self) -> Node:
        choices = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            choices.append(self._sequence())
        return choices[0] if len(choices) == 1 else ("or", choices)

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() and self._peek() not in "|)":
            parts.append(self._repeated(self._atom()))
        return ("seq", parts)

    def _repeated(self, node: Node) -> Node:
        bounds = self._bounds()
        if bounds is None:
            return node
        if node[0] in ("start", "end"):
            raise self._wrong("nothing to repeat")
        if self._peek() == "?":  # lazy or not: whether it matches is the same
            self._at += 1
        if self._peek() and (self._peek() in "*+?" or self._counted() is not None):
            raise self._wrong("a repeat of a repeat")
        return ("repeat", node, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        if self._peek() in simple:
            return simple[self._take()]
        counted = self._counted()
        if counted is None:
            return None
        self._at = counted[2]
        low, high = counted[0], counted[1]
        if low > MAX_REPEAT or (high is not None and not low <= high <= MAX_REPEAT):
            raise self._wrong("a repeat out of range")
        return low, high

    def _counted(self) -> tuple[int, int | None, int] | None:
        """`{m}`, `{m,}` or `{m,n}` from here, and where it ends; any other brace is a character."""
        end = self._text.find("}", self._at)
        if self._peek() != "{" or end < 0:
            return None
        low, comma, high = self._text[self._at + 1 : end].partition(",")
        if not _is_count(low) or not (high == "" or _is_count(high)):
            return None
        return int(low), int(high) if high else (None if comma else int(low)), end + 1

    def _atom(self) -> Node:
        char = self._take()
        if char == "(":
            return self._group()
        if char == "[":
            return ("char", self._set())
        if char == "^":
            return ("start",)
        if char == "$":
            return ("end",)
        if char == ".":
            return ("char", lambda found: found != "\n")
        if char in "*+?":
            raise self._wrong("nothing to repeat")
        if char == "\\":
            escaped = self._take()
            if escaped in "AzZ":
                return ("start",) if escaped == "A" else ("end",)
            return ("char", self._escaped(escaped))
        return ("char", char.__eq__)

    def _group(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._wrong("groups too deep")
        if self._text.startswith("?:", self._at):
            self._at += 2
        elif self._peek() == "?":
            raise self._wrong("an extension that is not offered")
        node = self._choices()
        if self._peek() != ")":
            raise self._wrong("a group without its end")
        self._at += 1
        self._depth -= 1
        return node

    def _escaped(self, char: str) -> Matcher:
        if char in CLASSES:
            return CLASSES[char]
        return self._literal(char).__eq__

    def _literal(self, char: str) -> str:
        if char in CONTROL:
            return CONTROL[char]
        if char.isascii() and char.isalnum():
            raise self._wrong(f"the escape \\{char}, which is not offered,")
        return char

    def _set(self) -> Matcher:
        negated = self._peek() == "^"
        self._at += negated
        members: list[Matcher] = []
        first = True
        while first or self._peek() != "]":
            first = False
            char = self._take()
            if char == "\\":
                escaped = self._take()
                if escaped in CLASSES:
                    members.append(CLASSES[escaped])
                    continue
                char = self._literal(escaped)
            members.append(self._range(char))
        self._at += 1
        return (
            (lambda found: not any(member(found) for member in members))
            if negated
            else (lambda found: any(member(found) for member in members))
        )

    def _range(self, low: str) -> Matcher:
        """The character alone, or `low-high` when a range follows."""
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return low.__eq__
        self._at += 1
        high = self._take()
        if high == "\\":
            high = self._literal(self._take())
        if high < low:
            raise self._wrong("a range that runs backwards")
        return lambda found: low <= found <= high


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 6

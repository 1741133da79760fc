"""Revoked capability tokens: refused from now on, also after a restart, and announced to who holds polls for them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["Revocations"]

log = logging.getLogger(__name__)


class Revocations:
    """Token ids and until when they matter (the token's own expiry, seconds since 1970).

    With a `path` each revocation is a line there, on the disk before it counts; without one they end with the
    process. Belongs to the event loop. Raises OSError when the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        self._until_s: dict[str, float] = {}
        self._heard: list[Callable[[str], None]] = []
        if path is not None:
            self._load(path)

    def __contains__(self, token_id: object) -> bool:
        return token_id in self._until_s

    def __len__(self) -> int:
        return len(self._until_s)

    def revoke(self, token_id: str, until_s: float) -> None:
        """Refuse this token from now on. Again is allowed and changes nothing; followers hear it once."""
        if token_id in self._until_s:
            return
        if self._path is not None:
            self._append(self._path, token_id, until_s)
        self._until_s[token_id] = until_s
        self._forget_expired()
        for heard in list(self._heard):
            heard(token_id)

    def follow(self, heard: Callable[[str], None]) -> Callable[[], None]:
        """Calls `heard` with each token id that is revoked. It must be quick and not raise. Returns the way to stop."""
        self._heard.append(heard)

        def stop() -> None:
            if heard in self._heard:
                self._heard.remove(heard)

        return stop

    def _forget_expired(self) -> None:
        """An expired token is refused as such, so its revocation is not needed: the memory stays bounded by use."""
        now_s = self._clock()
        expired = [token_id for token_id, until_s in self._until_s.items() if until_s < now_s]
        for token_id in expired:
            del self._until_s[token_id]

    def _load(self, path: Path) -> None:
        """Reads the file and writes it anew without what has expired."""
        try:
            lines = path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                self._until_s[str(entry["id"])] = float(entry["until_s"])
            except (ValueError, KeyError, TypeError):
                # only a crash in the middle of a write leaves one, and that revocation was not answered yet
                log.warning("line %d of %s is no revocation and is left out", number, path)
        self._forget_expired()
        if len(self._until_s) < len(lines):
            self._rewrite(path)

    def _rewrite(self, path: Path) -> None:
        fresh = path.with_suffix(path.suffix + ".new")
        with fresh.open("wb") as file:
            for token_id, until_s in self._until_s.items():
                file.write(_line(token_id, until_s))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

    @staticmethod
    def _append(path: Path, token_id: str, until_s: float) -> None:
        with path.open("ab") as file:
            file.write(_line(token_id, until_s))
            file.flush()
            os.fsync(file.fileno())


def _line(token_id: str, until_s: float) -> bytes:
    return json.dumps({"id": token_id, "until_s": until_s}).encode() + b"\n"

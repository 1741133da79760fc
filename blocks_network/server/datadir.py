"""A network's place on the disk: locked while a node runs on it, and the home of the keys that must outlive it.

DIR/lock           held by the running node
DIR/network.json   format, keysets and API key; readable by its owner alone
DIR/network.db     agents, keys, tasks      DIR/bus.db   messages      DIR/blobs/   files
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from blocks_network.errors import ConfigurationError
from blocks_network.server.access.keysets import Keyset, Keysets
from blocks_network.server.config import API_KEY_PREFIX

__all__ = ["DataDirectory", "Identity"]

FORMAT = 1
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
STARTS_WITH_BYTES = 1024 * 1024
ROOM_HINT = "make room on its disk, or choose another directory with --data"
KEYSET_NAMES = ("playground", "network")


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes a network the same one after a restart: its keysets, and the API key that is valid from the start."""

    keysets: Keysets
    api_key: str = field(repr=False)

    @classmethod
    def generate(cls, api_key: str | None = None) -> Identity:
        """New random keys; `api_key` is taken when given."""
        return cls(
            Keysets(Keyset.generate(name) for name in KEYSET_NAMES),
            api_key or API_KEY_PREFIX + secrets.token_urlsafe(32),
        )

    def to_document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "apiKey": self.api_key,
            "keysets": {
                keyset.name: {
                    "publishKey": keyset.publish_key,
                    "subscribeKey": keyset.subscribe_key,
                    "secretKey": keyset.secret_key,
                }
                for keyset in self.keysets
            },
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Identity:
        """Raises KeyError, TypeError or AttributeError for anything that `to_document` did not write."""
        return cls(
            Keysets(
                Keyset(name, keys["publishKey"], keys["subscribeKey"], keys["secretKey"])
                for name in KEYSET_NAMES
                for keys in [document["keysets"][name]]
            ),
            str(document["apiKey"]),
        )


class DataDirectory:
    """One node at a time: `open` takes the lock, `close` gives it back. A process that dies gives it back as well."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self._lock: IO[str] | None = None

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.path / 'network.db'}"

    @property
    def bus_path(self) -> Path:
        return self.path / "bus.db"

    @property
    def revocations_path(self) -> Path:
        return self.path / "revocations"

    @property
    def blobs_path(self) -> Path:
        return self.path / "blobs"

    @property
    def is_full(self) -> bool:
        """Whether its disk has too little room for a network to start."""
        return shutil.disk_usage(self.path).free < STARTS_WITH_BYTES

    def open(self) -> None:
        """Makes the directory where it is missing and locks it. ConfigurationError says what is in the way."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+", encoding="ascii")
        except OSError as fault:
            raise self._not_usable(fault) from fault
        if not _try_lock(lock):
            lock.seek(0)
            holder = lock.read(16).strip() or "unknown"
            lock.close()
            raise ConfigurationError(
                f"the data directory {self.path} is in use by another node (process {holder})",
                hint="stop that one first, or choose another directory with --data",
            )
        self._lock = lock
        try:
            os.truncate(lock.fileno(), 0)
            os.write(lock.fileno(), str(os.getpid()).encode())  # nothing stays in a buffer that a full disk refuses
        except OSError as fault:
            self.close()
            raise self._not_usable(fault) from fault

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()  # the lock goes with its descriptor
            self._lock = None

    def identity(self, api_key: str | None) -> Identity:
        """The network's own keys, made at its first start. A given `api_key` takes the kept one's place."""
        file = self.path / "network.json"
        try:
            known = self._read(file)
            identity = Identity(known.keysets, api_key or known.api_key) if known else Identity.generate(api_key)
            if identity != known:
                _write_private(file, json.dumps(identity.to_document(), indent=2) + "\n")
        except OSError as fault:
            raise self._not_usable(fault) from fault
        return identity

    def _read(self, file: Path) -> Identity | None:
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            document = json.loads(text)
            written_in = document["format"]
            if written_in == FORMAT:
                return Identity.from_document(document)
        except (ValueError, KeyError, TypeError, AttributeError) as fault:
            raise ConfigurationError(
                f"{file} is damaged: it does not hold a network's keys",
                hint="restore it from a backup, or choose another directory with --data",
            ) from fault
        raise ConfigurationError(
            f"the data directory {self.path} has format {written_in}; this version of blocks-network reads {FORMAT}",
            hint="run the version that wrote it, or choose another directory with --data",
        )

    def _not_usable(self, fault: OSError) -> ConfigurationError:
        why = "it is a file, not a directory" if self.path.is_file() else fault.strerror or fault
        return ConfigurationError(
            f"the data directory {self.path} cannot be used: {why}",
            hint=ROOM_HINT if fault.errno in NO_ROOM else "choose a directory that this user may write, with --data",
        )


def _write_private(file: Path, text: str) -> None:
    """Replaces `file` as a whole; at no moment may anybody else read it."""
    draft = file.with_suffix(".new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


def _try_lock(lock: IO[str]) -> bool:
    if sys.platform == "win32":
        import msvcrt

        try:
            lock.seek(1 << 30)  # beyond the text, which others want to read
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

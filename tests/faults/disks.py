"""Places for a network's data that a test can take the room from, and give it back."""

from __future__ import annotations

import os
import resource
import subprocess
from pathlib import Path
from typing import Protocol

__all__ = ["FileSizeLimit", "Room", "SmallDisk"]


class Room(Protocol):
    """What a network's data lie on."""

    data: Path

    def take(self, pid: int) -> None:
        """From now on the network with this process id can write nothing more."""

    def give(self, pid: int) -> None: ...

    def close(self) -> None: ...


class SmallDisk:
    """A file system of its own, in memory. PermissionError where this user may not mount one."""

    def __init__(self, path: Path, size_bytes: int = 16 * 1024 * 1024) -> None:
        path.mkdir()
        self._path, self._filler = path, path / "filler"
        mounting = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(path)]
        try:
            subprocess.run(mounting, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as fault:
            raise PermissionError(f"no file system can be mounted here: {fault}") from fault
        self.data = path / "network"

    def take(self, pid: int, leave_bytes: int = 0) -> None:
        """To the last byte, or to the last page or so before `leave_bytes`."""
        with self._filler.open("ab", buffering=0) as filler:
            for piece in (1 << 20, 1 << 12, 1):
                try:
                    while filler.write(bytes(piece)):
                        pass
                except OSError:
                    continue
            os.truncate(filler.fileno(), os.fstat(filler.fileno()).st_size - leave_bytes)

    def give(self, pid: int) -> None:
        self._filler.unlink()

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._path)], check=True)


class FileSizeLimit:
    """Files that must not grow, by a limit of the process. Any user may set it, and the disk need not be full."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.data = path / "network"

    def take(self, pid: int) -> None:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))

    def give(self, pid: int) -> None:
        if os.path.exists(f"/proc/{pid}"):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def close(self) -> None:
        """Ends with the process."""

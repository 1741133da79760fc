"""blocks-run --reload: takes up changed handler code while the agent runs, without dropping a task."""

from __future__ import annotations

import importlib
import linecache
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from blocks_network.agent.loading import LoadedHandler
from blocks_network.cli.output import note
from blocks_network.errors import ConfigurationError

__all__ = ["Reloader", "reloading_modules"]

LOOK_S = 0.5
"""Between two looks at the files: a person who has saved one does not notice it, and it costs a few stat calls."""
SETTLE_S = 0.1
"""Files that change within this time are being written: editors and checkouts write several, or one in pieces."""
OURS = "blocks_network"

Stamp = Mapping[Path, tuple[int, int]]


def reloading_modules() -> None:
    """Before the first load: compiled files are told from their source by the second, and people save faster."""
    sys.dont_write_bytecode = True


class Reloader:
    """One thread. Watches the handler's files and the modules beside it that it has imported, as they are when this is
    made.

    `load()` loads the handler anew; `replace(function)` gives it to the instance. Tasks that run end with the code they
    began with. What cannot be loaded is told with file and reason, and the old code goes on.
    """

    def __init__(
        self,
        current: LoadedHandler,
        load: Callable[[], LoadedHandler],
        *,
        look_s: float = LOOK_S,
    ) -> None:
        self._current, self._load, self._look_s = current, load, look_s
        self._ending = threading.Event()
        self._stamp = self._look()
        self._thread: threading.Thread | None = None

    def start(self, replace: Callable[[Callable[..., Any]], None]) -> None:
        self._thread = threading.Thread(target=self._run, args=(replace,), name="blocks-reload", daemon=True)
        self._thread.start()
        if not self._current.files:
            note(f"[agent] --reload has nothing to watch: {self._current.name} is part of this package")

    def stop(self) -> None:
        """Ask it to end; `join` waits."""
        self._ending.set()

    def join(self, timeout_s: float) -> bool:
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self, replace: Callable[[Callable[..., Any]], None]) -> None:
        while not self._ending.wait(self._look_s):
            seen = self._look()
            if seen == self._stamp:
                continue
            while not self._ending.wait(SETTLE_S) and (again := self._look()) != seen:
                seen = again
            if self._ending.is_set():
                return
            self._reload(replace, changed=_changed(self._stamp, seen))
            now = self._look()  # with modules that are imported now for the first time
            self._stamp = {file: seen.get(file, now[file]) for file in now}  # what changed meanwhile is a change

    def _reload(self, replace: Callable[[Callable[..., Any]], None], changed: str) -> None:
        before = _taken_out(self._modules())
        linecache.checkcache()
        importlib.invalidate_caches()
        try:
            loaded = self._load()
            self._check(loaded)
            replace(loaded.function)
        except ConfigurationError as fault:
            for name in self._modules():
                sys.modules.pop(name, None)
            sys.modules.update(before)
            note(f"[agent] {changed} changed, and cannot be used: {fault.message}; the code before it goes on")
            return
        if loaded.card != self._current.card or loaded.concurrency != self._current.concurrency:
            note("[agent] what changed in the card or in the registry file counts from the next start on")
        self._current = loaded
        note(f"[agent] {changed} changed; tasks that come now run the new code")

    def _check(self, loaded: LoadedHandler) -> None:
        if loaded.agent_name != self._current.agent_name:
            raise ConfigurationError(
                f"the agent's name would be {loaded.agent_name}, and this instance is {self._current.agent_name}"
            )
        missing = loaded.missing_env()
        if missing:
            raise ConfigurationError(f"it needs environment variables that are not set: {', '.join(missing)}")

    def _look(self) -> Stamp:
        """Files that are not there are not in it."""
        files = {*self._current.files, *(Path(str(module.__file__)) for module in self._modules().values())}
        return {file: stamp for file in files if (stamp := _stamp_of(file)) is not None}

    def _modules(self) -> dict[str, ModuleType]:
        """Those that the handler may have imported from beside it: not the package's, not installed ones."""
        places = {file.parent for file in self._current.files if file.suffix == ".py"}
        found = {}
        for name, module in list(sys.modules.items()):
            source = getattr(module, "__file__", None)
            if source is None or name == "__main__" or name.partition(".")[0] == OURS:
                continue
            file = Path(source)
            if file.suffix == ".py" and "site-packages" not in file.parts and places.intersection(file.parents):
                found[name] = module
        return found


def _stamp_of(file: Path) -> tuple[int, int] | None:
    try:
        known = file.stat()
    except OSError:
        return None
    return known.st_mtime_ns, known.st_size


def _taken_out(names: Iterable[str]) -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in list(names)}


def _changed(before: Stamp, after: Stamp) -> str:
    names = {file.name for file in {*before, *after} if before.get(file) != after.get(file)}
    return ", ".join(sorted(names))

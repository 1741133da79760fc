"""Turns the name of a module or file into a function, with faults that say what is wrong where."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from blocks_network.errors import HandlerLoadError

__all__ = ["import_file", "import_module", "symbol_of"]

_numbers = itertools.count(1)


def import_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as fault:
        if fault.name and (name == fault.name or name.startswith(f"{fault.name}.")):
            raise HandlerLoadError(
                f"Failed to import {name}: there is no module of that name",
                hint="run from the folder that holds it, or name a file: path/to/file.py:function",
            ) from fault
        raise HandlerLoadError(f"Failed to import {name}: it needs {fault.name}, which is not installed") from fault
    except SyntaxError as fault:
        raise HandlerLoadError(f"Failed to import {name}: {_syntax(fault)}") from fault
    except Exception as fault:
        raise HandlerLoadError(f"Failed to import {name}: {_raised(fault)}") from fault


def import_file(path: Path) -> ModuleType:
    """Loads a file under a name of its own, with its folder importable, as if it had been run from there."""
    file = path.resolve()
    if not file.is_file():
        raise HandlerLoadError(f"handler file not found: {path}", hint="it is looked for relative to where you are")
    if str(file.parent) not in sys.path:
        sys.path.insert(0, str(file.parent))
    spec = importlib.util.spec_from_file_location(f"_blocks_handler_{next(_numbers)}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise HandlerLoadError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except SyntaxError as fault:
        del sys.modules[spec.name]
        raise HandlerLoadError(f"{path} is no valid Python: {_syntax(fault)}") from fault
    except Exception as fault:
        del sys.modules[spec.name]
        raise HandlerLoadError(f"{path} failed while it was loaded: {_raised(fault)}") from fault
    return module


def _raised(fault: Exception) -> str:
    """What was raised and where: the innermost line of those that lead to it."""
    frames = traceback.extract_tb(fault.__traceback__)
    written = [frame for frame in frames if not frame.filename.startswith("<")]  # <frozen importlib...>
    place = f" ({Path(written[-1].filename).name}, line {written[-1].lineno})" if len(written) > 1 else ""
    return f"{type(fault).__name__}: {fault}{place}"


def _syntax(fault: SyntaxError) -> str:
    return f"{fault.msg} in line {fault.lineno}"


def symbol_of(module: ModuleType, symbol: str, where: str) -> Callable[..., Any]:
    found = getattr(module, symbol, None)
    if found is None:
        public = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        own = [name for name in public if getattr(getattr(module, name), "__module__", None) == module.__name__]
        raise HandlerLoadError(
            f"function {symbol!r} not found in {where}", hint=f"it has: {', '.join(own or public) or 'no function'}"
        )
    if not callable(found):
        raise HandlerLoadError(f"{symbol!r} in {where} is not callable, it is of type {type(found).__name__}")
    function: Callable[..., Any] = found
    return function

"""Statements that run for each task: compiled once, then given to the driver as text and values.

SQLAlchemy's `execute` looks at a statement's parts, types and events anew at each call, which takes several times as
long as SQLite takes for the statement; what is left of it here is the connection and its transaction. Only columns of
texts, numbers and booleans may be named: nothing translates their values.

Python's driver of SQLite looks for an adapter of each None and boolean that it is given, which takes longer than to
store it. So rows are told apart by where they have None: there the statement says NULL; a boolean is given as a number.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import groupby, zip_longest
from operator import itemgetter
from typing import Any

from sqlalchemy import ClauseElement, Connection, Dialect, Insert

__all__ = ["Prepared"]

Values = tuple[Any, ...]
Shape = tuple[type, ...]
NoneType = type(None)
SHAPES = 256
"""Of one statement, kept: there are as many as there are ways to leave columns empty."""


class Prepared:
    """One statement, and the names of its values in the order in which they are given.

    Faults are SQLAlchemy's, or, from SQLite, the driver's own: `Database` makes them one kind.
    """

    def __init__(self, statement: ClauseElement, names: Sequence[str]) -> None:
        self._statement, self._names = statement, tuple(names)
        self._compiled: dict[str, tuple[str, Callable[[Values], Any]]] = {}
        self._shaped: dict[Shape, tuple[str, Callable[[Values], Values]]] = {}

    def run(self, connection: Connection, values: Values) -> int:
        """Returns how many rows it concerned."""
        text, arranged = self._for(connection.dialect)
        driver = connection.connection.driver_connection
        if isinstance(driver, sqlite3.Connection):
            return driver.execute(text, arranged(values)).rowcount
        return connection.exec_driver_sql(text, arranged(values)).rowcount

    def run_all(self, connection: Connection, rows: Sequence[Values]) -> int:
        """Once for each of the rows. Returns how many rows of the table it concerned."""
        if not rows:
            return 0
        text, arranged = self._for(connection.dialect)
        driver = connection.connection.driver_connection
        if not isinstance(driver, sqlite3.Connection):
            return connection.exec_driver_sql(text, [arranged(values) for values in rows]).rowcount
        concerned = 0
        for shape, alike in groupby(map(arranged, rows), key=_shape_of):
            text_of_shape, given = self._shaped.get(shape) or self._shape(text, shape)
            concerned += driver.executemany(text_of_shape, map(given, alike)).rowcount
        return concerned

    def _shape(self, text: str, shape: Shape) -> tuple[str, Callable[[Values], Values]]:
        """The statement for values of these types, and how they are given to it."""
        if len(self._shaped) >= SHAPES:
            self._shaped.clear()
        pieces = text.split("?")
        marks = ["NULL" if kind is NoneType else "?" for kind in shape]
        shaped = "".join(piece + mark for piece, mark in zip_longest(pieces, marks, fillvalue=""))
        numbers = {at for at, kind in enumerate(shape) if kind is bool}
        kept = [at for at, kind in enumerate(shape) if kind is not NoneType]

        def given(values: Values) -> Values:
            return tuple([int(values[at]) if at in numbers else values[at] for at in kept])

        self._shaped[shape] = shaped, itemgetter(*kept) if not numbers and len(kept) > 1 else given
        return self._shaped[shape]

    def _for(self, dialect: Dialect) -> tuple[str, Callable[[Values], Any]]:
        found = self._compiled.get(dialect.name)
        if found is None:
            # an INSERT sets what is named; other statements name their values themselves
            columns = list(self._names) if isinstance(self._statement, Insert) else None
            compiled = self._statement.compile(dialect=dialect, column_keys=columns)
            wanted: Sequence[str] | None = getattr(compiled, "positiontup", None)
            found = self._compiled[dialect.name] = str(compiled), _arrangement(self._names, wanted)
        return found


def _shape_of(values: Values) -> Shape:
    return tuple(map(type, values))


def _arrangement(names: tuple[str, ...], wanted: Sequence[str] | None) -> Callable[[Values], Any]:
    """As the driver takes a row's values: by position, or (None) by name."""
    if wanted is None:
        return lambda values: dict(zip(names, values, strict=True))
    return itemgetter(*map(names.index, wanted))

"""A PostgreSQL of the tests' own: made in a directory of its own, on a Unix socket alone, gone with them."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from urllib.parse import quote

import psycopg

START_S = 60
USER = "blocks"
HOMES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql@*/bin")
"""Where systems keep the server's programs that are not in the PATH."""


def find_programs() -> Path | None:
    """The directory with `initdb` and `pg_ctl` of the newest PostgreSQL here; None when there is none."""
    known = shutil.which("initdb")
    if known is not None:
        return Path(known).resolve().parent
    found = [home for pattern in HOMES for home in Path("/").glob(pattern[1:]) if (home / "initdb").exists()]
    return max(found, key=lambda home: [int(number) for number in re.findall(r"\d+", str(home))], default=None)


class PostgresServer:
    """`start`, then any number of databases, then `stop`. Nothing of it is kept."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.home = Path(tempfile.mkdtemp(prefix="blocks-pg-", dir="/tmp"))  # a socket's path has 107 bytes at most
        self._data = self.home / "data"
        self._numbers = itertools.count(1)
        self._runs = False

    def start(self) -> None:
        if os.geteuid() == 0:  # PostgreSQL refuses to be run by root
            shutil.chown(self.home, _somebody_else())
        try:
            self._call("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", f"--username={USER}")
            self._run()
        except BaseException:
            self.stop()
            raise

    def restart(self) -> None:
        """As after a crash: every connection is cut."""
        self.halt()
        self.resume()

    def halt(self) -> None:
        self._call("pg_ctl", "stop", "--mode=immediate", "--wait")
        self._runs = False

    def resume(self) -> None:
        self._run()

    def stop(self) -> None:
        if self._runs:
            self.halt()
        shutil.rmtree(self.home, ignore_errors=True)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"blocks_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return f"postgresql://{USER}@/{name}?host={quote(str(self.home), safe='')}"

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """One statement, committed at once; the rows that it gives."""
        with psycopg.connect(host=str(self.home), user=USER, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def _run(self) -> None:
        # no TCP, and no wait for the disk: what is tested here is not PostgreSQL's durability
        options = f"-k {self.home} -c listen_addresses= -c fsync=off -c max_connections=40"
        log = f"--log={self.home / 'log'}"
        self._call("pg_ctl", "start", "--wait", f"--timeout={START_S}", log, f"--options={options}")
        self._runs = True

    def _call(self, program: str, *arguments: str) -> None:
        # the server inherits what it is started with: a pipe would never end
        with (self.home / f"{program}.out").open("w+", encoding="utf-8") as said:
            done = subprocess.run(
                [self._programs / program, f"--pgdata={self._data}", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                timeout=2 * START_S,
                **({"user": _somebody_else(), "group": _group(), "extra_groups": []} if os.geteuid() == 0 else {}),
            )
            said.seek(0)
            assert done.returncode == 0, f"{program}: {said.read()}"


def _somebody_else() -> str:
    import pwd

    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _group() -> int:
    import pwd

    return pwd.getpwnam(_somebody_else()).pw_gid

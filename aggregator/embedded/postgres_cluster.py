"""The cluster's files: made once, whole or not at all, and checked before each start."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.embedded.account import Account, user_name
from aggregator.embedded.directories import PRIVATE, make_directory
from aggregator.embedded.failure import explain_failure
from aggregator.embedded.postgres_settings import locale_arguments
from aggregator.errors import EnvironmentRefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROLE = "aggregator"
DATABASE = "aggregator"
_SUPERUSER = "postgres"
_PASSWORD_BYTES = 18
_INITDB_SECONDS = 120

#: initdb would want a password for the superuser to write this itself; ours has none, so that nobody can be it.
_ACCESS = """\
# Written by `aggregator up`: a password everywhere, this machine only.
local all all scram-sha-256
host  all all 127.0.0.1/32 scram-sha-256
"""
_ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/bin:/bin", "TZ": "UTC"}


@dataclass(frozen=True)
class Cluster:
    """A cluster below `home`: its data, its password, and the binaries that read it."""

    home: Path
    binaries: Path
    account: Account

    @property
    def data(self) -> Path:
        """PostgreSQL's own directory, mode 700, of the account."""
        return self.home / "data"

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment of PostgreSQL's processes: nothing of the user's shell gets in (PGDATA, PGPORT)."""
        return dict(_ENVIRONMENT)

    def prepare(self, *, is_durable: bool) -> str:
        """Make the cluster if there is none, check it, and return the password of our role.

        Raises EnvironmentRefusedError where it belongs to another user or another major version.
        """
        if not self.data.exists():
            self._create(is_durable=is_durable)
        self._require_owner()
        self._require_version()
        return self._password()

    def major(self) -> int:
        """The major version of the binaries."""
        printed = self._run("postgres", "--version").stdout
        found = re.search(r"(\d+)", printed)
        if found is None:
            raise EnvironmentRefusedError(f"{self.binaries / 'postgres'} does not say its version: {printed.strip()}")
        return int(found[1])

    def _create(self, *, is_durable: bool) -> None:
        """Initialise a directory of another name, which gets its own when all is done: a kill leaves no half."""
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        make_directory(unfinished, mode=PRIVATE)
        self.account.own(unfinished)
        options = ["--encoding=UTF8", *locale_arguments(self.major())]
        options += ["--auth=trust", f"--username={_SUPERUSER}", "--no-instructions"]
        options += [] if is_durable else ["--no-sync"]
        self._checked("initdb", "-D", str(unfinished), *options)
        (unfinished / "pg_hba.conf").write_text(_ACCESS, encoding="ascii")
        self._single(unfinished, *self._first_statements(self._new_password()))
        unfinished.rename(self.data)

    def _first_statements(self, password: str) -> Sequence[str]:
        """A role that owns its database and may make readers, and no superuser: none can log in."""
        return (
            f"CREATE ROLE {ROLE} LOGIN CREATEDB CREATEROLE PASSWORD '{password}'",
            f"GRANT pg_monitor, pg_checkpoint TO {ROLE}",
            f"CREATE DATABASE {DATABASE} OWNER {ROLE}",
        )

    def _single(self, data: Path, *statements: str) -> None:
        """Run statements without a server, one a line: needs no password, and nobody can connect meanwhile."""
        self._checked(
            "postgres", "--single", "-D", str(data), "-c", "fsync=off", "postgres", given="\n".join(statements) + "\n"
        )

    def _password(self) -> str:
        try:
            return self._password_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            password = self._new_password()
            self._single(self.data, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
            return password

    @property
    def _password_file(self) -> Path:
        return self.home / "password"

    def _new_password(self) -> str:
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(password + "\n", encoding="ascii")
        return password

    def _require_owner(self) -> None:
        owner = self.data.stat().st_uid
        if owner != self.account.user_id:
            raise EnvironmentRefusedError(
                f"the database in {self.data} belongs to {user_name(owner)}, and PostgreSQL would run as"
                f" {user_name(self.account.user_id)}; start as the user who made it, or name another --data-dir"
            )

    def _require_version(self) -> None:
        try:
            found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            raise EnvironmentRefusedError(
                f"{self.data} is not a PostgreSQL database; move it away, or name another place with --data-dir"
            ) from None
        if found != str(self.major()):
            raise EnvironmentRefusedError(
                f"the database in {self.data} was made by PostgreSQL {found}, and this is {self.major()}; dump it with"
                f" version {found} and load it into a new --data-dir, or run a server of version {found} on it and set"
                " AGGREGATOR_DATABASE_URL"
            )

    def _checked(self, program: str, *arguments: str, given: str = "") -> None:
        done = self._run(program, *arguments, given=given)
        if done.returncode:
            raise explain_failure(f"PostgreSQL's {program}", done.stdout, place=self.home)

    def _run(self, program: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        other = self.account.is_other
        return subprocess.run(
            [str(self.binaries / program), *arguments],
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_INITDB_SECONDS,
            check=False,
            env=self.environment,
            cwd="/",
            user=self.account.user_id if other else None,
            group=self.account.group_id if other else None,
            extra_groups=[] if other else None,
        )

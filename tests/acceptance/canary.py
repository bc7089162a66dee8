"""An installation whose every secret is a canary: a value of its own, which nothing that comes out may hold."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg2
import redis
from psycopg2 import sql

from aggregator.embedded.ports import free_port
from tests.acceptance.machines import Machine
from tests.acceptance.secure_servers import Site

#: Part of every secret, and of nothing else.
MARK = "q7Zv9Xk2"
KINDS = ("database", "shop", "broker", "rabbitmq", "cache", "token", "password")
SECRET = {kind: f"{MARK}-{kind}/of@all" for kind in ("database", "shop", "cache", "broker", "password")} | {
    # RabbitMQ's settings and a header hold fewer characters.
    "rabbitmq": f"{MARK}-rabbitmq",
    "token": f"{MARK}-token",
}
#: Redis has one password for all of its databases.
SECRET["cache"] = SECRET["broker"]

CONFIGURATION = """
{targets}

[[sources]]
name = "environment"
kind = "command"
command = ["env"]
interval = "5s"

[[sources]]
name = "node"
kind = "selftest"
interval = "5s"

[[summaries]]
name = "shop"
sql = "SELECT 7 AS seven"
database = "shop"
refresh = "5s"
"""
SOURCE = """
[[sources]]
name = "{path}-{kind}"
kind = "prometheus"
targets = ["http://localhost:{port}/{path}"]
interval = "5s"
{access}
"""
#: What targets do with what they are sent.
HABITS = ("refused", "label", "text", "reason", "long", "type", "encoding", "moved", "good")


def leaks(text: str) -> list[str]:
    """Where a canary is in a text, as it is, in capitals or not, or within what basic authentication sends."""
    found = [text[max(0, one.start() - 100) : one.end() + 40] for one in re.finditer(MARK, text, re.IGNORECASE)]
    encoded = base64.b64encode(f"me:{SECRET['password']}".encode()).decode()
    return found + [f"basic: {encoded}" for _ in range(text.lower().count(encoded.lower()[:20]))]


def configuration(port: int) -> str:
    """Sources that ask a target of each habit, with a token and with a password."""
    access = {
        "token": 'bearer_token_file = "secrets/token"',
        "password": 'basic_auth = { username = "me", password_file = "secrets/password" }',
    }
    sources = (
        SOURCE.format(path=path, kind=kind, port=port, access=line) for path in HABITS for kind, line in access.items()
    )
    return CONFIGURATION.format(targets="".join(sources))


@dataclass
class Scene:
    """The machine, its servers, and where it listens."""

    machine: Machine
    site: Site
    database: str
    redis: str
    port: int
    web_port: int = field(default_factory=free_port)

    @property
    def secrets(self) -> Path:
        return self.machine.folder / "secrets"

    @property
    def database_url(self) -> str:
        return f"{self.database}?sslmode=verify-full&sslrootcert={self.site.ours.ca}"

    def write(self, **changed: str) -> dict[str, str]:
        """Write every secret into its file; gives the variables that name them. `changed` replaces some of them."""
        authority = f"ssl_ca_certs={self.site.ours.ca}"
        urls = {
            "database_url": self.database_url,
            "broker_url": f"{self.redis}/0?{authority}",
            "cache_url": f"{self.redis}/1?{authority}",
            "result_backend": f"{self.redis}/2?{authority}",
            "databases_shop_url": self.database_url.replace("/canary", "/shop"),
        } | changed
        others = len(list(self.machine.folder.glob("secrets-*")))
        folder = self.machine.folder / f"secrets-{others}" if changed else self.secrets
        folder.mkdir(exist_ok=True)
        for name, value in urls.items():
            (folder / name).write_text(value)
        for name in ("token", "password"):
            (folder / name).write_text(SECRET[name])
        return {f"AGGREGATOR_{name.upper()}_FILE": str(folder / name) for name in urls}

    def run(self, *words: str, **changed: str) -> str:
        """What a command says with a traceback, whether it fails or not, with other URLs where some are given."""
        before = dict(self.machine.environment)
        try:
            if changed:
                self.machine.environment |= self.write(**changed)
            done = self.machine.run("aggregator", "--debug", *words, exit_code=None)
        finally:
            self.machine.environment = before
        assert done.stdout + done.stderr
        return done.stdout + done.stderr

    def celery(self, *words: str) -> str:
        """What a command of Celery's says."""
        done = self.machine.run("celery", "-A", "aggregator", *words, exit_code=None)
        assert done.stdout + done.stderr
        return done.stdout + done.stderr

    def fetch(self, path: str, port: int | None = None) -> str:
        """What a page says, whatever its status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.web_port}{path}", timeout=15) as response:
                return str(response.headers) + response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return str(error.headers) + error.read().decode()


def tables_of(url: str) -> Iterator[tuple[str, str]]:
    """Every row of every table of ours, as text."""
    with contextlib.closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'aggregator'")
        for (name,) in cursor.fetchall():
            statement = sql.SQL("SELECT one::text FROM aggregator.{} AS one").format(sql.Identifier(name))
            cursor.execute(statement)
            yield name, "\n".join(row[0] for row in cursor.fetchall())


def entries_of(url: str) -> Iterator[tuple[str, str]]:
    """Every key of a Redis database with its value, as text."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        for key in client.scan_iter(count=1_000):
            readers = {
                b"string": client.get,
                b"list": lambda key: client.lrange(key, 0, -1),
                b"set": client.smembers,
                b"zset": lambda key: client.zrange(key, 0, -1),
                b"hash": client.hgetall,
            }
            # What has a time to live may be gone meanwhile.
            if (kind := client.type(key)) != b"none":
                yield key.decode(errors="replace"), f"{key!r} {readers[kind](key)!r}"  # type: ignore[index] # not async


def processes() -> Iterator[tuple[str, str]]:
    """The command line of every process, and the environment of those that are ours."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            yield f"command line {command[:60]}", command
            if "aggregator" in command and int(place.name) != os.getpid():
                yield f"environment {command[:60]}", (place / "environ").read_bytes().decode(errors="replace")


def files_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder but those that hold the secrets: logs, metric files, results."""
    for path in (Path(parent, name) for parent, _, names in os.walk(folder) for name in names):
        is_secret = any(parent.name.startswith("secrets") for parent in path.parents)
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile
            if path.is_file() and not is_secret:
                yield str(path), path.read_bytes().decode("latin-1")

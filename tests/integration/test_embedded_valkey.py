"""The embedded Valkey: what it keeps through restarts, kills and damage."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import kombu
import psutil
import pytest
import redis
from structlog.testing import capture_logs

from aggregator.embedded.process import wait_until
from aggregator.embedded.valkey import EmbeddedValkey
from aggregator.embedded.wheels import valkey_binary
from aggregator.errors import EnvironmentRefusedError
from tests.processes import has_ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE = timedelta(seconds=60)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path / "vk", binary=valkey_binary()) as running:
        yield running


def put(server: EmbeddedValkey, value: str) -> None:
    with closing(redis.Redis.from_url(server.cache_url)) as client:
        client.set("key", value)


def get(server: EmbeddedValkey) -> bytes | None:
    with closing(redis.Redis.from_url(server.cache_url)) as client:
        return client.get("key")  # type: ignore[return-value] # the client is not asynchronous


def kill(server: EmbeddedValkey) -> None:
    psutil.Process(server.process_id).send_signal(signal.SIGKILL)
    assert wait_until(lambda: not server.is_alive(), PATIENCE)


def send_and_receive(url: str) -> object:
    with kombu.Connection(url) as connection, closing(connection.SimpleQueue("test")) as queue:
        queue.put({"answer": 42})
        message = queue.get(timeout=PATIENCE.total_seconds())
        message.ack()
        return message.payload


def test_celerys_messages_go_through_the_broker_url(server: EmbeddedValkey) -> None:
    assert send_and_receive(server.broker_url) == {"answer": 42}


def test_the_cache_is_not_where_the_messages_are(server: EmbeddedValkey) -> None:
    put(server, "kept")
    with closing(redis.Redis.from_url(server.cache_url.replace("db=1", "db=0"))) as client:
        assert client.dbsize() == 0


def test_it_listens_on_its_socket_only(server: EmbeddedValkey, tmp_path: Path) -> None:
    assert not psutil.Process(server.process_id).net_connections("inet")
    assert (tmp_path / "vk" / "run").stat().st_mode & 0o077 == 0


def test_it_refuses_to_evict(server: EmbeddedValkey) -> None:
    with closing(redis.Redis.from_url(server.cache_url)) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_what_it_held_is_there_after_a_restart(server: EmbeddedValkey) -> None:
    put(server, "kept")
    server.stop()
    server.start()
    assert get(server) == b"kept"


def test_what_it_held_is_there_after_a_kill(server: EmbeddedValkey) -> None:
    put(server, "kept")
    kill(server)
    server.start()
    assert get(server) == b"kept"


def test_a_server_that_was_left_running_is_replaced(server: EmbeddedValkey, tmp_path: Path) -> None:
    put(server, "kept")
    with EmbeddedValkey(tmp_path / "vk", binary=valkey_binary()) as successor:
        assert get(successor) == b"kept"
        assert not server.is_alive()


def test_a_cut_end_of_its_log_is_no_obstacle(server: EmbeddedValkey, tmp_path: Path) -> None:
    put(server, "kept")
    kill(server)
    log = next((tmp_path / "vk" / "data" / "appendonlydir").glob("*.incr.aof"))
    log.write_bytes(log.read_bytes() + b"*3\r\n$3\r\nSE")
    server.start()
    assert get(server) == b"kept"


@pytest.mark.parametrize("pattern", ["*.incr.aof", "*.base.rdb", "*.manifest"])
def test_garbage_is_set_aside_with_a_warning(server: EmbeddedValkey, tmp_path: Path, pattern: str) -> None:
    put(server, "lost")
    kill(server)
    data = tmp_path / "vk" / "data"
    next((data / "appendonlydir").glob(pattern)).write_bytes(b"garbage" * 100)
    with capture_logs() as logs:
        server.start()
    assert [log["event"] for log in logs if log["log_level"] == "warning"] == ["broker_data_set_aside"]
    assert get(server) is None
    assert send_and_receive(server.broker_url) == {"answer": 42}
    assert len(list(data.glob("appendonlydir.damaged-*"))) == 1


def test_a_place_that_it_cannot_use_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "vk").touch()
    with pytest.raises(EnvironmentRefusedError, match="is not a directory"):
        EmbeddedValkey(tmp_path / "vk", binary=valkey_binary()).start()


def test_a_deep_or_odd_path_still_works(tmp_path: Path) -> None:
    for home in (tmp_path.joinpath(*["a-rather-long-name"] * 8), tmp_path / "two words 100%"):
        with EmbeddedValkey(home, binary=valkey_binary()) as server:
            put(server, "kept")
            assert get(server) == b"kept"
            assert send_and_receive(server.broker_url) == {"answer": 42}


def test_it_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path\n"
        "from aggregator.embedded.valkey import EmbeddedValkey\n"
        "from aggregator.embedded.wheels import valkey_binary\n"
        "s = EmbeddedValkey(Path(sys.argv[1]), binary=valkey_binary())\n"
        "s.start(); print(s.process_id, flush=True); time.sleep(60)\n"
    )
    home = str(tmp_path / "vk")
    with subprocess.Popen([sys.executable, "-c", program, home], stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout
        server = int(launcher.stdout.readline())
        launcher.kill()
    assert wait_until(lambda: has_ended(server), PATIENCE)

"""No secret comes out, however things fail: in no log, error, metric, status, table, cache or list of processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from aggregator.embedded.ports import free_port
from aggregator.embedded.process import wait_until
from tests.acceptance.canary import (
    HABITS,
    MARK,
    SECRET,
    Scene,
    configuration,
    entries_of,
    files_of,
    leaks,
    processes,
    tables_of,
)
from tests.acceptance.conftest import Installed, missing
from tests.acceptance.machines import BEAT, WORKER, Machine, Running, machines, rows, wait_for
from tests.acceptance.secure_servers import (
    Site,
    make_database,
    postgres_with_tls,
    secure_postgres,
    secure_redis,
)
from tests.effort import examples
from tests.tls_server import asking_server

pytestmark = pytest.mark.acceptance

FAILED = "SELECT count(*) >= %s FROM aggregator.targets WHERE last_error IS NOT NULL"
#: Beat has sent each source, and the worker has collected it.
GOOD = "SELECT count(*) >= 2 FROM aggregator.targets WHERE is_up AND address LIKE '%%/good'"


@pytest.fixture(scope="module")
def scene(open_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Worker, beat and web that run, at the chattiest level, on servers with passwords, with targets that misbehave."""
    folder, binaries = open_directory / "canary", postgres_with_tls()
    if binaries is None:
        missing("postgresql")
        return
    site = Site.below(folder)
    with (
        secure_postgres(folder / "pg", site, password=SECRET["database"], binaries=binaries) as server,
        secure_redis(folder / "redis", site, password=SECRET["broker"], binary=Installed()("redis-server")) as redis,
        asking_server() as port,
    ):
        make_database(server, "shop")
        machine = Machine(tmp_path_factory.mktemp("machine") / "home", "here", {"AGGREGATOR_LOG_LEVEL": "debug"})
        made = Scene(machine, site, make_database(server, "canary"), redis, port)
        machine.environment |= made.write() | {"AGGREGATOR_WEB_LISTEN": f"127.0.0.1:{made.web_port}"}
        machine.configure(configuration(port))
        with machines(machine):
            machine.run("aggregator", "db", "migrate")
            machine.start(*WORKER, "--loglevel", "debug").says("ready.")
            machine.start(*BEAT, "--loglevel", "debug")
            machine.start("aggregator", "web")
            wait_for(made.database_url, GOOD)
            wait_for(made.database_url, FAILED, 2 * (len(HABITS) - 1))
            yield made


#: The suite tries the first of them, and all with AGGREGATOR_TEST_EFFORT=2.
HOWS = ("refused", "bad port", "untrusted", "mistyped", "down", "another scheme")
SETTINGS = ("database_url", "broker_url", "cache_url", "result_backend", "databases_shop_url")


def changed(scene: Scene, setting: str, how: str) -> dict[str, str]:
    """A URL that fails: its server is down, it refuses the password, its certificate is not trusted, it is mistyped."""
    database = scene.database_url.replace("/canary", "/shop" if "shop" in setting else "/canary")
    url = database if setting.startswith("database") else f"{scene.redis}/0?ssl_ca_certs={scene.site.ours.ca}"
    return {
        setting: {
            "down": re.sub(r"@localhost:\d+", "@localhost:1", url),
            "refused": url.replace(MARK, f"{MARK}-wrong"),
            "untrusted": url.replace(scene.site.ours.ca, scene.site.strangers.ca),
            "mistyped": url.replace("://", ":/"),
            "another scheme": url.replace("rediss://", "http://").replace("postgresql://", "mysql://"),
            "bad port": re.sub(r"@localhost:\d+", "@localhost:99x99", url),
        }[how]
    }


@pytest.mark.parametrize(
    ("words", "how"),
    [
        *(("db migrate", how) for how in HOWS[: examples(3)]),
        ("status", "refused"),
        ("doctor", "refused"),
        ("doctor", "mistyped"),
    ],
)
def test_commands_whose_database_fails(scene: Scene, words: str, how: str) -> None:
    assert leaks(scene.run(*words.split(), **changed(scene, "database_url", how))) == []


@pytest.mark.parametrize("how", HOWS[: examples(2)])
@pytest.mark.parametrize("setting", ["broker_url", "cache_url"])
def test_status_and_doctor_whose_broker_or_cache_fails(scene: Scene, setting: str, how: str) -> None:
    assert leaks(scene.run("doctor", **changed(scene, setting, how))) == []
    assert leaks(scene.run("status", **changed(scene, setting, how))) == []


BEGINNINGS = (
    ("worker", "broker_url", "refused"),
    ("worker", "database_url", "refused"),
    ("beat", "result_backend", "refused"),
    ("web", "database_url", "refused"),
    ("beat", "broker_url", "untrusted"),
    ("worker", "database_url", "mistyped"),
    ("worker", "broker_url", "bad port"),
    ("web", "cache_url", "refused"),
    ("beat", "broker_url", "down"),
)


def begin(scene: Scene, process: str, setting: str, how: str) -> Running:
    """Start a process beside the others, with a URL that fails; what `web` shows is looked at."""
    words = {"worker": (*WORKER, "--loglevel", "debug"), "beat": BEAT, "web": ("aggregator", "web")}[process]
    port, environment = free_port(), dict(scene.machine.environment)
    scene.machine.environment |= scene.write(**changed(scene, setting, how)) | {
        "AGGREGATOR_WEB_LISTEN": f"127.0.0.1:{port}",
        "AGGREGATOR_EXPORTER_LISTEN": "127.0.0.1:0",
        "AGGREGATOR_NODE": f"{process}-{setting}-{how}".replace(" ", "-"),
    }
    try:
        running = scene.machine.start(*words)
    finally:
        scene.machine.environment = environment
    if process == "web":
        running.says("web_started")
        assert leaks("".join(scene.fetch(path, port) for path in PAGES)) == []
    return running


def test_processes_that_begin_with_what_does_not_work(scene: Scene) -> None:
    begun = {words: begin(scene, *words) for words in BEGINNINGS[: examples(5)]}

    def have_said_enough() -> bool:
        return all(one.process.poll() is not None or one.log.read_text().count("\n") > LINES for one in begun.values())

    wait_until(have_said_enough, SHORT)
    for one in begun.values():
        one.stop()
    assert {words: found for words, one in begun.items() if (found := leaks(one.log.read_text()))} == {}


MALFORMED = {
    "a URL that is not closed": f'database_url = "postgresql://u:{MARK}@h/d\n',
    "a URL without quotes": f"database_url = postgresql://u:{MARK}@h/d\n",
    "a list": f'broker_url = ["redis://:{MARK}@h/0"]\n',
    "another scheme": f'cache_url = "memcached://:{MARK}@h"\n',
    "a wrong parameter": f'broker_url = "amqps://u:{MARK}@h//?ssl_ca=/x"\n',
    "a setting that is none": f'databse_url = "postgresql://u:{MARK}@h/d"\n',
    "a wrong database": f'[databases.shop]\nurl = "mysql://u:{MARK}@h/d"\n',
    "a wrong key of a database": f'[databases.shop]\npasswd = "{MARK}"\n',
    "a target": f'[[sources]]\nname = "a"\nkind = "prometheus"\ntargets = ["htp://u:{MARK}@h/"]\n',
    "a token": f'[[sources]]\nname = "a"\nkind = "prometheus"\ntargets = ["http://h/"]\nbearer_token = "{MARK}"\n',
    "a password": '[[sources]]\nname = "a"\nkind = "prometheus"\ntargets = ["http://h/"]\n'
    f'basic_auth = {{ username = "u", password = "{MARK}" }}\n',
    "an environment": f'[[sources]]\nname = "a"\nkind = "command"\ncommand = ["a"]\nenvironment = ["{MARK}"]\n',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_configuration_that_is_wrong(scene: Scene, what: str) -> None:
    path = scene.machine.folder / "wrong.toml"
    path.write_text(MALFORMED[what])
    environment = dict(scene.machine.environment)
    # The environment would beat the file.
    scene.machine.environment = {name: value for name, value in environment.items() if not name.endswith("_URL_FILE")}
    try:
        done = scene.machine.run("aggregator", "--debug", "--config", str(path), "check", exit_code=2)
    finally:
        path.unlink()
        scene.machine.environment = environment
    assert leaks(done.stdout + done.stderr) == []


PAGES = (
    "/",
    "/metrics",
    "/api/v1/status",
    "/api/v1/summaries",
    "/api/v1/summaries/shop",
    "/api/v1/range?x=1",
    "/-/ready",
)
LINES = 60
SHORT = timedelta(seconds=6)
DRY = ("label", "text", "reason")


@pytest.mark.parametrize(
    "words", ["status", "status --json", "doctor --json", "check", "plan", "summary shop", "db migrate"]
)
def test_commands_of_an_installation_that_runs(scene: Scene, words: str) -> None:
    assert leaks(scene.run(*words.split())) == []


@pytest.mark.parametrize("path", HABITS)
def test_collections_by_hand_of_targets_that_repeat_what_they_were_sent(scene: Scene, path: str) -> None:
    assert leaks(scene.run("collect", f"{path}-token")) == []
    if path in DRY:
        assert leaks(scene.run("collect", f"{path}-password", "--dry-run")) == []


@pytest.mark.parametrize(
    "words",
    [
        "report", "inspect conf", "inspect conf --include-defaults", "inspect stats", "inspect report", "status",
    ],
)  # fmt: skip
def test_what_celery_tells_of_itself(scene: Scene, words: str) -> None:
    assert leaks(scene.celery(*words.split())) == []


def test_pages_and_metrics(scene: Scene) -> None:
    exporter = int(scene.machine.environment["AGGREGATOR_EXPORTER_LISTEN"].rpartition(":")[2])
    assert leaks("".join(scene.fetch(path) for path in PAGES)) == []
    said = scene.fetch("/metrics", exporter)
    assert "aggregator_collections_total" in said
    assert leaks(said) == []


def test_a_result_that_an_application_waits_for(scene: Scene) -> None:
    said = scene.machine.python_session(
        "from aggregator.tasks import collect\n"
        'for source in ("environment", "refused-token", "reason-password"):\n'
        "    try:\n        print(collect.delay(source).get(timeout=120))\n"
        "    except Exception as error:\n        print(repr(error))"
    )
    assert "PATH=" in said
    assert leaks(said) == []


def test_the_canary_is_seen_nowhere(scene: Scene) -> None:
    """After all of the above: tables, the cache and the broker, processes, logs and metric files."""
    found = {
        f"{place}: {name}": leaked
        for place, entries in (
            ("table", tables_of(scene.database_url)),
            ("broker", entries_of(f"{scene.redis}/0?ssl_ca_certs={scene.site.ours.ca}")),
            ("cache", entries_of(f"{scene.redis}/1?ssl_ca_certs={scene.site.ours.ca}")),
            ("results", entries_of(f"{scene.redis}/2?ssl_ca_certs={scene.site.ours.ca}")),
            ("process", processes()),
            ("file", files_of(scene.machine.folder)),
        )
        for name, text in entries
        if (leaked := leaks(text))
    }
    assert found == {}
    assert rows(
        scene.database_url, "SELECT DISTINCT last_error FROM aggregator.targets WHERE last_error LIKE '%%***%%'"
    )

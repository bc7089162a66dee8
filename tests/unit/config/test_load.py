"""Loading: where settings come from, and every fault with its file, line and field, all at once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from textwrap import dedent

import pytest
from pydantic import SecretStr

from aggregator.config.load import load_settings
from aggregator.config.model import Settings
from aggregator.config.source_model import PrometheusSource
from aggregator.errors import ConfigurationError

HOST = '[[sources]]\nname = "h"\nkind = "host"\n'


def load(folder: Path, text: str, **environment: str) -> Settings:
    path = folder / "a.toml"
    path.write_text(dedent(text))
    return load_settings(path, environment={"HOME": str(folder)} | environment)


def faults(folder: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text, **environment)
    return [str(fault).removeprefix(f"{folder}/") for fault in caught.value.faults]


def test_without_any_file_this_host_and_the_service_itself_are_observed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(environment={"HOME": str(tmp_path)})
    assert settings.file is None
    assert [(source.name, source.kind, source.interval) for source in settings.sources] == [
        ("host", "host", timedelta(seconds=5)),
        ("aggregator", "prometheus", timedelta(seconds=5)),
    ]
    assert [(tier.name, tier.retention.days) for tier in settings.tiers] == [
        ("1m", 14),
        ("5m", 90),
        ("1h", 730),
        ("1d", 3650),
    ]
    assert [summary.name for summary in settings.summaries] == [
        "cpu-busy-by-host",
        "fullest-file-systems",
        "slowest-sources",
    ]
    assert settings.data_dir == tmp_path / ".local/share/aggregator"
    assert settings.database_url is None


def test_the_service_is_scraped_where_it_listens(tmp_path: Path) -> None:
    settings = load(tmp_path, 'exporter_listen = "0.0.0.0:1"\nweb_listen = "[::1]:2"')
    source = settings.sources[1]
    assert isinstance(source, PrometheusSource)
    assert source.targets == ("http://127.0.0.1:1/metrics", "http://[::1]:2/metrics")


def test_the_first_file_of_the_search_path_is_read_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, user, named, explicit = (tmp_path / name for name in ("here", "user/aggregator", "named", "explicit"))
    for folder in (here, user, named, explicit):
        folder.mkdir(parents=True)
    monkeypatch.chdir(here)
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "user"), "HOME": str(tmp_path)}

    def namespace(path: Path | None = None) -> str:
        return load_settings(path, environment=environment).namespace

    (user / "aggregator.toml").write_text('namespace = "user"')
    assert namespace() == "user"
    (here / "aggregator.toml").write_text('namespace = "here"')
    assert namespace() == "here"
    (named / "n.toml").write_text('namespace = "named"')
    environment["AGGREGATOR_CONFIG"] = str(named / "n.toml")
    assert namespace() == "named"
    (explicit / "e.toml").write_text("")
    assert namespace(explicit / "e.toml") == "aggregator"


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('node = "file"\nnamespace = "file"\nlog_level = "error"')
    environment = {"HOME": "/", "AGGREGATOR_NODE": "env", "AGGREGATOR_NAMESPACE": "env", "AGGREGATOR_LOG_FORMAT": ""}
    settings = load_settings(path, environment=environment, overrides={"node": "flag", "namespace": None})
    assert (settings.node, settings.namespace, settings.log_level) == ("flag", "env", "error")
    assert settings.log_format == "auto"


@pytest.mark.parametrize("variable", ["AGGREGATOR_CACHE_URL", "AGGREGATOR_CACHE_URL_FILE"])
def test_the_file_of_a_secret_that_a_variable_gives_is_not_looked_at(tmp_path: Path, variable: str) -> None:
    """A service has its secrets from its supervisor; those that the file names may be root's alone."""
    path, url = tmp_path / "a.toml", tmp_path / "url"
    path.write_text('cache_url_file = "/root/secret-that-nobody-may-read"')
    url.write_text("redis://h/1")
    value = str(url) if variable.endswith("_FILE") else "redis://h/1"
    settings = load_settings(path, environment={"HOME": "/", variable: value})
    assert settings.cache_url is not None
    assert settings.cache_url.get_secret_value() == "redis://h/1"


def test_every_scalar_has_a_variable_and_secrets_come_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:secret@h/1\n")
    settings = load(
        tmp_path,
        'cache_url_file = "url"',
        AGGREGATOR_WORKER_CONCURRENCY="5",
        AGGREGATOR_LOOKBACK="10m",
        AGGREGATOR_DATA_DIR="~/d",
        AGGREGATOR_BROKER_URL_FILE=str(tmp_path / "url"),
        AGGREGATOR_CELERYCONFIG="/x.py",
        AGGREGATOR_TEST_ANY="1",
    )
    assert settings.worker_concurrency == 5
    assert settings.lookback == timedelta(minutes=10)
    assert settings.data_dir == Path("~/d").expanduser()
    assert settings.cache_url == settings.broker_url == SecretStr("redis://:secret@h/1")
    assert "secret" not in repr(settings)


def test_tiers_override_the_default_ones_key_by_key_or_are_added(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        [[tiers]]
        name = "1d"
        timezone = "Europe/Berlin"
        [[tiers]]
        name = "15s"
        step = "15s"
        retention = "1d"
        """,
    )
    assert [tier.name for tier in settings.tiers] == ["15s", "1m", "5m", "1h", "1d"]
    assert (settings.tiers[4].timezone, settings.tiers[4].retention.days) == ("Europe/Berlin", 3650)


def test_sources_and_summaries_replace_the_default_ones(tmp_path: Path) -> None:
    settings = load(tmp_path, HOST + '[[summaries]]\nname = "s"\nselect = "up"\n')
    assert [source.name for source in settings.sources] == ["h"]
    assert [summary.name for summary in settings.summaries] == ["s"]


def test_relative_paths_in_the_file_count_from_its_folder(tmp_path: Path) -> None:
    settings = load(
        tmp_path, 'data_dir = "d"\n[[sources]]\nname = "p"\nkind = "prometheus"\nfile_sd = ["t/*.json", "/x.json"]'
    )
    source = settings.sources[0]
    assert isinstance(source, PrometheusSource)
    assert source.file_sd == (str(tmp_path / "t/*.json"), "/x.json")
    assert settings.data_dir == tmp_path / "d"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("worker_concurency = 3", "a.toml:1: worker_concurency: no such key; did you mean worker_concurrency?"),
        ("\nfile = 'x'", "a.toml:2: file: no such key; "),
        ("\n\nworker_concurrency = '3'", "a.toml:3: worker_concurrency: '3' is given where a whole number is expected"),
        ("worker_concurrency = 65", "a.toml:1: worker_concurrency: 65 is out of bounds; it must be at most 64"),
        ("namespace = 5", "a.toml:1: namespace: 5 is given where a text in quotes is expected"),
        ("log_level = 'loud'", "a.toml:1: log_level: 'loud' is none of 'debug', 'info', 'warning' or 'error'"),
        ("lookback = '0s'", "a.toml:1: lookback: is nothing"),
        ("web_listen = '80'", "a.toml:1: web_listen: '80' is no address"),
        ("web_listen = 'h:99999'", "a.toml:1: web_listen: 'h:99999' is no address"),
        (
            "exporter_listen = '127.0.0.1:9810'",
            "a.toml:1: exporter_listen: exporter_listen and web_listen are the same",
        ),
        (
            "broker_url = 'http://h'",
            "a.toml:1: broker_url: is no URL that can be used; write one that begins with amqp://",
        ),
        ("cache_url_file = '/none'", "a.toml:1: cache_url_file: /none cannot be read: No such file"),
        ("sources = 5", "a.toml:1: sources: is a list of tables; begin each entry with [[sources]]"),
        ("[sources]\nname = 'x'", "a.toml:1: sources: is a list of tables"),
        ("sources = [5]", "a.toml:1: [[sources]] number 1: 5 is given where a table is expected"),
        (HOST + "\n" + HOST, 'a.toml:6: [[sources]] "h": name: line 2 has the same name'),
        (HOST + "interval = '-5s'", "a.toml:4: [[sources]] \"h\": interval: '-5s' is not a duration"),
        (HOST + "interval = -5", "a.toml:4: [[sources]] \"h\": interval: '-5' is not a duration"),
        (HOST + "interval = 5", 'a.toml:4: [[sources]] "h": interval: 5 has no unit; write it as "5s"'),
        (
            HOST + "interval = '0s'",
            'a.toml:4: [[sources]] "h": interval: 0s is out of bounds; it must be at least 1 second',
        ),
        (HOST + "interval = 'PT5S'", "a.toml:4: [[sources]] \"h\": interval: 'PT5S' is given where a duration"),
        (HOST + "interval = '99999999999y'", 'a.toml:4: [[sources]] "h": interval: '),
        (HOST + "timeout = '2m'", 'a.toml:4: [[sources]] "h": timeout: is longer than interval'),
        (HOST + "targets = []", 'a.toml:4: [[sources]] "h": targets: kind host has no such key, only prometheus'),
        (
            HOST + "limits = { sample = 1 }",
            'a.toml:4: [[sources]] "h": limits.sample: no such key; did you mean samples?',
        ),
        (HOST + "labels = { job = 'x' }", 'a.toml:4: [[sources]] "h": labels: job and instance are set by'),
        (HOST + "labels = { 'a-b' = 'x' }", 'a.toml:4: [[sources]] "h": labels.a-b: '),
        (HOST + "keep = []", 'a.toml:4: [[sources]] "h": keep: is empty'),
        (HOST + "keep = [\n'a',\n'x{a=\"b\",a=\"c\"}'\n]", 'a.toml:6: [[sources]] "h": keep[1]: '),
        (
            HOST + "keep = ['{job=\"x\"}']",
            "a.toml:4: [[sources]] \"h\": keep[0]: '{job=\"x\"}' matches nothing: job is always 'h'",
        ),
        (HOST + "keep = ['go_(']", "a.toml:4: [[sources]] \"h\": keep[0]: selector 'go_(', column 5: "),
        (HOST + "keep = ['a']\ndrop = ['a|b', '.*']", "a.toml:5: [[sources]] \"h\": drop[1]: '.*' drops all"),
        (
            HOST + "keep = 'a'",
            'a.toml:4: [[sources]] "h": keep: \'a\' is given where a list such as ["..."] is expected',
        ),
        ("[[sources]]\nname = 'x'", 'a.toml:1: [[sources]] "x": kind: is missing; one of prometheus, host, command'),
        ("[[sources]]\nname = 'x'\nkind = 'y'", 'a.toml:3: [[sources]] "x": kind: no such kind'),
        ("[[sources]]\nkind = 'host'", "a.toml:1: [[sources]] number 1: name: is missing"),
        ("[[sources]]\nname = '-'\nkind = 'host'", "a.toml:2: [[sources]] \"-\": name: '-' is not allowed"),
        (
            "[[sources]]\nname = 'x'\nkind = 'prometheus'\ntargets = ['http://a/m',\n'b:9100']",
            "a.toml:5: [[sources]] \"x\": targets[1]: 'b:9100' is not allowed; write a URL such as",
        ),
        ("[[sources]]\nname = 'x'\nkind = 'prometheus'", 'a.toml:1: [[sources]] "x": has neither targets nor file_sd'),
        (
            "[[sources]]\nname = 'x'\nkind = 'prometheus'\ntargets = ['http://a/m']\nhonor_labels = 'no'",
            "a.toml:5: [[sources]] \"x\": honor_labels: 'no' is given where true or false is expected",
        ),
        (
            "[[sources]]\nname = 'x'\nkind = 'command'\ncommand = 'ls'",
            "a.toml:4: [[sources]] \"x\": command: 'ls' is given where a list",
        ),
        (
            "[[sources]]\nname = 'x'\nkind = 'command'\ncommand = ['ls']\nparse = 'xml'",
            'a.toml:5: [[sources]] "x": parse: "key_value", "json", "none" or { regex',
        ),
        (
            "[[sources]]\nname = 'x'\nkind = 'command'\ncommand = ['ls']\nparse = { regex = '(' }",
            'a.toml:5: [[sources]] "x": parse: regex does not compile',
        ),
        (
            "[[sources]]\nname = 'x'\nkind = 'command'\ncommand = ['ls']\nenvironment = { PASSWORD = 12345 }",
            'a.toml:5: [[sources]] "x": environment.PASSWORD: this is given where a text in quotes is expected',
        ),
        ("[[tiers]]\nname = '7m'\nretention = '1d'", 'a.toml:1: [[tiers]] "7m": step: is missing'),
        (
            "[[tiers]]\nname = '90s'\nstep = '90s'\nretention = '1d'",
            'a.toml:3: [[tiers]] "90s": step: 90s is a multiple of no finer tier\'s step (1m)',
        ),
        (
            "[[tiers]]\nname = 'x'\nstep = '1500ms'\nretention = '1d'",
            'a.toml:3: [[tiers]] "x": step: 1500ms is no whole number of seconds',
        ),
        (
            "[[tiers]]\nname = '1d'\ntimezone = 'Mars/X'",
            "a.toml:3: [[tiers]] \"1d\": timezone: 'Mars/X' does not exist",
        ),
        ("[[tiers]]\nname = '1h'\ntimezone = 'Europe/Berlin'", 'a.toml:3: [[tiers]] "1h": timezone: a zone decides'),
        ("[[tiers]]\nname = '1h'\nretention = '30m'", 'a.toml:3: [[tiers]] "1h": retention: is shorter than the tier'),
        (
            "[[tiers]]\nname = '1h'\nretention = '2h'",
            'a.toml:3: [[tiers]] "1h": retention: is shorter than a bucket of',
        ),
        ("[[tiers]]\nname = '1d'\nretention = '2000y'", 'a.toml:3: [[tiers]] "1d": retention: is longer than 1000y'),
        (
            "[[tiers]]\nname = 'x'\nstep = '60s'\nretention = '1d'",
            "a.toml:3: [[tiers]] \"x\": step: tier '1m' has the same",
        ),
        ("sample_retention = '1m'", "a.toml:1: sample_retention: is too short to build tier '1m'"),
        ("lateness = '3d'", "a.toml:1: lateness: samples are not kept for so long"),
        (
            "[[summaries]]\nname = 's'\nselect = 'x{'",
            "a.toml:3: [[summaries]] \"s\": select: selector 'x{', column 3: ",
        ),
        ("[[rules]]\nname = 'a b'\nselect = 'x'\nby = []", "a.toml:2: [[rules]] \"a b\": name: 'a b' is not allowed"),
        (
            "[[rules]]\nname = 'r'\nselect = 'x{'\nby = []",
            "a.toml:3: [[rules]] \"r\": select: selector 'x{', column 3: ",
        ),
        ("[[rules]]\nname = 'r'\nselect = 'x'", 'a.toml:1: [[rules]] "r": give either by or without'),
        (
            "[[rules]]\nname = 'r'\nselect = 'x'\nby = ['a']\nwithout = ['b']",
            'a.toml:1: [[rules]] "r": give either by or without',
        ),
        (
            "[[rules]]\nname = 'r'\nselect = 'x'\nby = ['a', '__name__']",
            'a.toml:4: [[rules]] "r": by: names __name__, but what begins with __ is reserved',
        ),
        (
            "[[rules]]\nname = 'r'\nselect = 'x'\nby = []\nlabels = { __a = 'b' }",
            'a.toml:5: [[rules]] "r": labels: names __a, but what begins with __ is reserved',
        ),
        (
            "[[rules]]\nname = 'x'\nselect = 'x'\nby = []",
            'a.toml:2: [[rules]] "x": name: is that of the metric it selects',
        ),
        (
            "[[rules]]\nname = 'r'\nselect = 'x'\nby = []\n[[rules]]\nname = 'r'\nselect = 'y'\nby = []",
            'a.toml:6: [[rules]] "r": name: line 2 has the same name',
        ),
        ("[[rules]]\nname = 'r'\nselect = 'x'\nbye = []\nby = []", 'a.toml:4: [[rules]] "r": bye: no such key'),
        ("a = 1\nb = [1,\nc", "a.toml:3: this is not TOML: "),
        ("a = ", "a.toml:1: this is not TOML: Invalid value"),
    ],
)
def test_a_fault_has_its_file_line_and_field_and_says_what_would_be_right(
    tmp_path: Path, text: str, fault: str
) -> None:
    found = faults(tmp_path, text)
    assert len(found) == 1, found
    assert found[0].startswith(fault)


@pytest.mark.parametrize(
    ("variable", "value", "fault"),
    [
        (
            "AGGREGATOR_DATABASE_ULR",
            "x",
            "AGGREGATOR_DATABASE_ULR: no such setting; did you mean AGGREGATOR_DATABASE_URL?",
        ),
        ("AGGREGATOR_WORKER_CONCURRENCY", "x", "AGGREGATOR_WORKER_CONCURRENCY: worker_concurrency: 'x' is not a whole"),
        ("AGGREGATOR_LOOKBACK", "5", "AGGREGATOR_LOOKBACK: lookback: '5' is not a duration"),
        ("AGGREGATOR_NODE_FILE", "/none", "AGGREGATOR_NODE_FILE: node: /none cannot be read"),
        ("AGGREGATOR_SOURCES", "x", "AGGREGATOR_SOURCES: no such setting"),
    ],
)
def test_a_fault_of_a_variable_names_the_variable(tmp_path: Path, variable: str, value: str, fault: str) -> None:
    (found,) = faults(tmp_path, "", **{variable: value})
    assert found.startswith(fault)


def test_the_example_in_the_document_on_rules_is_right(tmp_path: Path) -> None:
    document = (Path(__file__).resolve().parents[3] / "docs" / "rules.md").read_text()
    first, second = load(tmp_path, document.split("```toml")[1].split("```")[0]).rules
    assert (first.by, second.by, second.labels) == (("job",), (), {"site": "north"})


def test_a_value_given_twice_in_one_place_is_a_fault(tmp_path: Path) -> None:
    (found,) = faults(tmp_path, "cache_url = 'redis://h'\ncache_url_file = 'x'")
    assert found == "a.toml:2: cache_url_file: cache_url is given as well; keep one of the two"
    (found,) = faults(tmp_path, "", AGGREGATOR_NODE="a", AGGREGATOR_NODE_FILE="/x")
    assert found == "AGGREGATOR_NODE_FILE: AGGREGATOR_NODE is set as well; keep one of the two"


def test_every_fault_is_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = 'nod = 1\n[[sources]]\nname = "x"\nkind = "host"\ninterval = "x"\ncolour = 1\n'
    text += '[[tiers]]\nname = "1h"\nstep = 1\n'
    text += '[[tiers]]\nname = "1d"\nretention = "1h"\n[[summaries]]\nname = "s"\n'
    found = faults(tmp_path, text, AGGREGATOR_NODE="?")
    expected = [*(f"a.toml:{line}:" for line in (1, 5, 6, 9, 12, 13)), "AGGREGATOR_NODE:"]
    assert [fault.split(" ", 1)[0] for fault in found] == expected


@pytest.mark.parametrize("url", ["'mysql://u:hunter2@h/x'", "['postgresql://u:hunter2@h/x']"])
def test_a_secret_is_never_shown_not_even_a_wrong_one(tmp_path: Path, url: str) -> None:
    (found,) = faults(tmp_path, f"database_url = {url}")
    assert "hunter2" not in found


def test_a_file_that_was_named_must_be_there_and_readable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read: No such file or directory"):
        load_settings(tmp_path / "none.toml", environment={})
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read"):
        load_settings(environment={"AGGREGATOR_CONFIG": str(tmp_path / "none.toml")})
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, environment={})
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'\n")
    with pytest.raises(ConfigurationError, match=r"latin\.toml:2: this is not UTF-8"):
        load_settings(tmp_path / "latin.toml", environment={})


def test_labels_of_the_target_may_win_so_that_keep_is_not_contradicted(tmp_path: Path) -> None:
    text = """
        [[sources]]
        name = "p"
        kind = "prometheus"
        targets = ["http://h/federate"]
        honor_labels = true
        keep = ['{job="other"}']
        drop = ['x', '{job="third"}']
        """
    assert load(tmp_path, text).sources[0].keep == ('{job="other"}',)


def test_a_local_day_is_built_from_a_tier_that_divides_every_offset(tmp_path: Path) -> None:
    load(tmp_path, "[[tiers]]\nname = '1d'\ntimezone = 'Asia/Kathmandu'\n")
    text = "[[tiers]]\nname = '5m'\nstep = '30m'\n[[tiers]]\nname = '1m'\nstep = '30m'\ntimezone = 'UTC'\n"
    found = faults(tmp_path, text + "[[tiers]]\nname = '1d'\ntimezone = 'Asia/Kathmandu'\n")
    expected = "no finer tier (30m, 1h) divides the days of Asia/Kathmandu; add one that divides 15m"
    assert any(expected in fault for fault in found)


def test_weeks_and_months_are_steps_and_months_are_lengths(tmp_path: Path) -> None:
    text = "[[tiers]]\nname = '{0}'\nstep = '{0}'\nretention = '24mo'\ntimezone = 'America/New_York'\n"
    tiers = load(tmp_path, "".join(text.format(step) for step in ("1w", "1mo", "12mo"))).tiers
    assert [(tier.name, tier.months) for tier in tiers[-3:]] == [("1w", 0), ("1mo", 1), ("12mo", 12)]
    assert tiers[-1].retention == 2 * tiers[-1].step


@pytest.mark.parametrize(
    ("tier", "fault"),
    [
        ("step = '1y'", "step: 1y has years of 365 days; write 12mo for one that begins on 1 January"),
        ("step = '1mo1d'", "step: 2716146s is a multiple of no finer tier's step (1m, 5m, 1h, 1d)"),
        ("step = '2h'\ntimezone = 'Asia/Tokyo'", "timezone: a zone decides where days begin"),
        ("step = '1month'", "step: '1month' is not a duration"),
    ],
)
def test_a_step_that_no_calendar_has_is_refused(tmp_path: Path, tier: str, fault: str) -> None:
    (found,) = faults(tmp_path, f"[[tiers]]\nname = 'x'\nretention = '20y'\n{tier}\n")
    assert fault in found


def test_a_tier_is_kept_as_long_as_the_longest_month_that_is_built_from_it(tmp_path: Path) -> None:
    months = "[[tiers]]\nname = '1mo'\nstep = '1mo'\nretention = '10y'\n"
    (found,) = faults(tmp_path, months + "[[tiers]]\nname = '1d'\nretention = '30d'\n")
    assert "is shorter than a bucket of tier '1mo', which is built from this one; keep at least 31d" in found
    load(tmp_path, months + "[[tiers]]\nname = '1d'\nretention = '31d'\n")


def test_databases_come_from_the_file_and_the_environment_which_beats_it(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://u:secret@h/file\n")
    settings = load(
        tmp_path,
        """
        [databases.shop]
        url_file = "url"
        [databases.other_1]
        url = "postgres://u:secret@h/other"
        [databases.beaten]
        url = "postgresql://h/beaten"
        """,
        AGGREGATOR_DATABASES_BEATEN_URL="postgresql://h/new",
        AGGREGATOR_DATABASES_MORE_URL_FILE=str(tmp_path / "url"),
        AGGREGATOR_DATABASES_EMPTY_URL="",
    )
    assert {known.name: known.url.get_secret_value().rpartition("/")[2] for known in settings.databases} == {
        "beaten": "new",
        "more": "file",
        "other_1": "other",
        "shop": "file",
    }
    assert "secret" not in repr(settings)


def test_every_fault_of_a_database_is_told_without_its_url(tmp_path: Path) -> None:
    found = faults(
        tmp_path,
        """
        [databases]
        flat = "postgresql://u:secret@h/d"
        [databases.Shop]
        url = "postgresql://u:secret@h/d"
        [databases.both]
        url = "postgresql://u:secret@h/d"
        url_file = "url"
        [databases.none]
        [databases.wrong]
        url = "mysql://u:secret@h/d"
        [databases.number]
        url = 3
        [databases.typo]
        uri = "postgresql://u:secret@h/d"
        [databases.gone]
        url_file = "gone"
        """,
        AGGREGATOR_DATABASES_X_URL="secret",
        AGGREGATOR_DATABASES_Y_URL="postgresql://h/d",
        AGGREGATOR_DATABASES_Y_URL_FILE="/url",
        AGGREGATOR_DATABASES_URL="postgresql://h/d",
    )
    assert not [line for line in found if "secret" in line]
    assert sorted((line.partition(": ")[0] for line in found), key=lambda place: (len(place), place)) == [
        *(f"a.toml:{line}" for line in (3, 4, 6, 9)),
        *(f"a.toml:{line}" for line in (11, 13, 15, 17)),
        *("AGGREGATOR_DATABASES_URL", "AGGREGATOR_DATABASES_X_URL", "AGGREGATOR_DATABASES_Y_URL_FILE"),
    ]


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        ("", "select: is wanted, or sql instead of it; write one of the two"),
        ('select = "up"\nsql = "SELECT 1"', "select: is wanted, or sql instead of it; write one of the two"),
        ('sql = "SELECT 1"\nby = ["a"]', "by: belongs to a selector, which this summary has not; leave it out"),
        ('select = "up"\nmax_rows = 3', "max_rows: belongs to sql, which this summary has not; leave it out"),
        (
            'select = "up"\nwindow = "1m"\ntrend = 7',
            "trend: must divide window into whole seconds; write one such as 12",
        ),
        ('select = "up"\nwindow = "5m"\ntrend = 10', "trend: its points are 30s long, which no tier's step divides"),
        ('sql = "SELECT 1"\ndatabase = "Shop"', "database: 'Shop' is not allowed; a database's name has small letters"),
        ('sql = "SELECT 1"\ntimeout = "10m"', "timeout: 10m is out of bounds"),
    ],
)
def test_a_summary_is_over_a_selector_or_from_sql(tmp_path: Path, entry: str, fault: str) -> None:
    (found,) = faults(tmp_path, f'[[summaries]]\nname = "s"\n{entry}\n')
    assert f'[[summaries]] "s": {fault}' in found

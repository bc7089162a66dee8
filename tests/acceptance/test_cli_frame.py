"""The real command: exit codes, one line for each fault, and help that is quick."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.machines import COMMAND_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = ("sqlalchemy", "celery", "numpy", "pydantic", "rich", "structlog")

HOST = '[[sources]]\nname = "h"\nkind = "host"\n'
DURATION = "write a whole number and a unit, such as 15s, 5m, 1h, 30d or 2y"


def aggregator(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in an environment without any configuration but what is given."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AGGREGATOR_")}
    return subprocess.run(
        [sys.executable, "-m", "aggregator", *arguments],
        cwd=folder,
        env=inherited | {"HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)} | environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=False,
    )


def test_help_lists_every_command_without_loading_what_they_need(tmp_path: Path) -> None:
    code = "import sys; from aggregator.cli.app import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_SECONDS,
        check=True,
    )
    assert "check " in done.stdout
    assert "maintain " in done.stdout
    loaded = done.stdout.splitlines()[-1].split()
    assert not [name for name in loaded if name.split(".")[0] in HEAVY]


def test_check_without_a_file_says_that_the_defaults_are_in_force(tmp_path: Path) -> None:
    done = aggregator("check", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("no configuration file: the defaults are in force")
    assert "1d" in done.stdout


def test_the_sample_that_init_writes_passes_check_and_means_the_defaults(tmp_path: Path) -> None:
    assert aggregator("init", folder=tmp_path).returncode == 0
    done = aggregator("check", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path}/aggregator.toml is right")
    again = aggregator("init", folder=tmp_path)
    assert again.returncode == 2
    assert again.stderr == "aggregator.toml exists and is not overwritten; name another file, or move it away\n"


def test_init_where_nothing_can_be_written_exits_3(tmp_path: Path) -> None:
    done = aggregator("init", str(tmp_path / "none" / "a.toml"), folder=tmp_path)
    assert done.returncode == 3
    assert "cannot be written: No such file or directory" in done.stderr


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("nod = 1\n", ["a.toml:1: nod: no such key; did you mean node?"]),
        (
            HOST + 'interval = "-5s"\n' + HOST + "keep = []\n",
            [
                f"a.toml:4: [[sources]] \"h\": interval: '-5s' is not a duration; {DURATION}",
                'a.toml:6: [[sources]] "h": name: line 2 has the same name; give each of the [[sources]] its own',
                'a.toml:8: [[sources]] "h": keep: is empty, which would keep nothing; leave it out to keep everything',
            ],
        ),
    ],
)
def test_each_fault_is_one_line_and_the_exit_code_is_2(tmp_path: Path, text: str, lines: list[str]) -> None:
    (tmp_path / "a.toml").write_text(text)
    for command in (["check"], ["db", "migrate"]):
        done = aggregator("--config", "a.toml", *command, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines() == lines


def test_a_missing_file_and_a_missing_url_exit_2(tmp_path: Path) -> None:
    done = aggregator("check", folder=tmp_path, AGGREGATOR_CONFIG="/none.toml")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("/none.toml: cannot be read: No such file or directory")
    done = aggregator("db", "url", folder=tmp_path)
    assert done.returncode == 2
    assert "AGGREGATOR_DATABASE_URL" in done.stderr


def test_the_database_url_is_printed_for_psql(tmp_path: Path) -> None:
    done = aggregator("db", "url", folder=tmp_path, AGGREGATOR_DATABASE_URL="postgresql+psycopg2://u:p@h/d")
    assert done.stdout == "postgresql://u:p@h/d\n"


def test_a_traceback_is_shown_only_with_debug(tmp_path: Path) -> None:
    assert "Traceback" not in aggregator("db", "url", folder=tmp_path).stderr
    done = aggregator("--debug", "db", "url", folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_a_wrong_option_exits_2_and_the_version_0(tmp_path: Path) -> None:
    assert aggregator("check", "--nope", folder=tmp_path).returncode == 2
    assert aggregator("nope", folder=tmp_path).returncode == 2
    done = aggregator("--version", folder=tmp_path)
    assert (done.returncode, done.stdout.split()[0]) == (0, "aggregator")


def test_a_reader_that_goes_away_is_no_reason_to_complain(tmp_path: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "aggregator", "check"],
            cwd=tmp_path,
            env=os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=COMMAND_TIMEOUT_SECONDS,
            check=False,
        )
    assert done.stderr == ""


def test_shells_complete_commands_and_those_of_a_group(tmp_path: Path) -> None:
    def completed(words: str, place: int) -> list[str]:
        environment = {"_AGGREGATOR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
        return aggregator(folder=tmp_path, **environment).stdout.split()

    assert completed("aggregator su", 1) == ["summarize", "summary"]
    assert completed("aggregator db m", 2) == ["migrate"]

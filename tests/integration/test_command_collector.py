"""Real commands: what they print is read, what they do wrong is told, and nothing of them is left."""

from __future__ import annotations

import math
import os
import signal
import stat
import sys
import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import billiard
import pytest

from aggregator.collectors import command_process
from aggregator.collectors.command import CommandCollector
from aggregator.collectors.protocol import Collected, Target
from aggregator.config.source_model import CommandSource, HostSource
from aggregator.embedded.process import wait_until
from aggregator.exposition.series import Kind
from tests.processes import has_ended

TARGET = Target(7, "web1", (("instance", "web1"), ("job", "var-log")))
DEADLINE_SECONDS = 60.0
#: What hangs in a test hangs for longer.
TIMEOUT_SECONDS = 50.0


def source(*command: str, **settings: Any) -> CommandSource:
    patient = {"interval": "60s", "timeout": f"{TIMEOUT_SECONDS:.0f}s"}
    return CommandSource(name="var-log", command=command, **{**patient, **settings})


def shell(script: str, **settings: Any) -> CommandSource:
    return source("sh", "-c", script, **settings)


def collect(configured: CommandSource, collector: CommandCollector | None = None) -> Collected:
    (collected,) = (collector or CommandCollector()).collect(configured, [TARGET])
    return collected


def values(collected: Collected) -> dict[str, float]:
    (batch,) = collected.batches
    return {key.metric: value for key, value in zip(batch.keys, batch.values, strict=True)}


def ends(pid: int) -> bool:
    return wait_until(lambda: has_ended(pid), timedelta(seconds=DEADLINE_SECONDS))


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.fixture(autouse=True)
def _no_child_is_left() -> Any:
    before = children()
    yield
    assert children() <= before


def test_ls_gives_its_output_its_exit_code_and_its_duration() -> None:
    collected = collect(source("ls", "-l", "/"))
    assert collected.error is None
    assert collected.output is not None
    assert "usr" in collected.output
    measured = values(collected)
    assert list(measured) == [
        "up",
        "scrape_duration_seconds",
        "scrape_samples_scraped",
        "command_exit_code",
        "command_duration_seconds",
    ]
    assert (measured["up"], measured["command_exit_code"], measured["scrape_samples_scraped"]) == (1, 0, 0)
    assert 0 < measured["command_duration_seconds"] < TIMEOUT_SECONDS


def test_what_a_regex_finds_is_a_series_with_the_labels_of_the_target() -> None:
    configured = source("ls", "-l", "/", parse={"regex": r"^total (?P<blocks>\d+)"}, labels={"env": "prod"})
    collected = collect(configured)
    key = collected.batches[0].keys[-1]
    assert (key.metric, key.labels, key.kind) == ("blocks", TARGET.labels, Kind.GAUGE)
    assert (collected.samples, values(collected)["scrape_samples_scraped"]) == (1, 1)


def test_keep_and_drop_choose_among_the_printed_samples_only() -> None:
    collected = collect(shell("echo a 1; echo b 2; echo c x", parse="key_value", keep=["a", "c"]))
    assert values(collected)["scrape_samples_scraped"] == 2
    assert "command_exit_code" in values(collected)
    assert "b" not in values(collected)
    assert (collected.samples, collected.rejected) == (1, {"value": 1})


def test_keys_stay_one_object_while_the_series_do_not_change() -> None:
    collector, configured = CommandCollector(), shell("echo a $$", parse="key_value")
    first, second = collect(configured, collector), collect(configured, collector)
    assert first.batches[0].keys is second.batches[0].keys
    bad = [collect(shell("exit 1"), collector) for _ in range(2)]
    assert bad[0].batches[0].keys is bad[1].batches[0].keys
    assert collect(configured, collector).batches[0].keys is first.batches[0].keys


def test_a_printed_name_that_is_reported_already_does_not_replace_it() -> None:
    collected = collect(shell("echo up 5", parse="key_value"))
    assert values(collected)["up"] == 1
    assert collected.rejected == {"duplicate": 1}


def test_a_failing_command_gives_up_0_its_exit_code_and_its_stderr() -> None:
    collected = collect(shell("echo partial 1; echo it broke >&2; exit 3", parse="key_value"))
    assert (collected.error, collected.reason, collected.output) == ("it broke", "exit_code", "partial 1\n")
    measured = values(collected)
    assert (measured["up"], measured["command_exit_code"], measured["scrape_samples_scraped"]) == (0, 3, 0)
    assert "partial" not in measured


def test_a_silent_failure_and_a_signal_are_told_apart() -> None:
    assert collect(shell("exit 4")).error == "ended with exit code 4 and wrote nothing to stderr"
    killed = collect(shell("kill -SEGV $$"))
    assert killed.error == "was ended by signal 11 and wrote nothing to stderr"
    assert values(killed)["command_exit_code"] == -11


def test_error_text_is_cut_and_holds_no_nul() -> None:
    collected = collect(shell(r"printf 'a\000b\377' >&2; head -c 300000 /dev/zero >&2; exit 1"))
    assert collected.error is not None
    assert collected.error.startswith("a\ufffdb\ufffd")
    assert (len(collected.error), "\x00" in collected.error) == (500, False)


def test_a_command_that_prints_nothing_is_up_with_no_sample() -> None:
    collected = collect(source("true", parse="key_value"))
    assert (values(collected)["up"], collected.output, collected.samples) == (1, "", 0)


def test_output_that_is_not_utf8_is_replaced_to_show_and_refused_to_parse() -> None:
    assert collect(shell(r"printf 'a \377'")).output == "a \ufffd"
    refused = collect(shell(r"printf 'a \377'", parse="key_value"))
    assert (refused.reason, refused.output, values(refused)["up"]) == ("encoding", "a \ufffd", 0)
    assert values(refused)["command_exit_code"] == 0


def test_output_that_is_not_json_fails_with_the_reason() -> None:
    assert collect(shell("echo '{'", parse="json")).reason == "parse"


def test_a_command_that_prints_without_end_is_stopped_at_the_cap() -> None:
    collected = collect(source("yes", output_bytes=10_000))
    assert (collected.reason, len(collected.output or "")) == ("output_too_large", 10_000)
    assert values(collected)["command_exit_code"] == -signal.SIGTERM
    assert collected.duration_seconds < TIMEOUT_SECONDS


def test_output_of_exactly_the_cap_is_whole_and_a_byte_more_is_not() -> None:
    assert collect(shell("printf 12345", output_bytes=5)).output == "12345"
    assert collect(shell("printf 123456", output_bytes=5)).reason == "output_too_large"


def test_a_large_output_below_the_cap_is_whole() -> None:
    collected = collect(source("head", "-c", "900000", "/dev/zero"))
    assert (collected.error, len(collected.output or "")) == (None, 900_000)


def test_endless_stderr_does_not_block_the_command() -> None:
    collected = collect(shell("head -c 1000000 /dev/zero >&2; echo a 1", parse="key_value"))
    assert values(collected)["a"] == 1


@pytest.fixture
def _timed_from_first_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """A timeout begins with the first output: how long a shell takes to start is the machine's affair."""
    read_until = command_process._Reader.read_until

    def begin(reader: command_process._Reader, deadline: float) -> Any:
        timeout = deadline - time.monotonic()
        has_begun = lambda: reader._read_once(0) and bool(reader.output)  # noqa: E731
        assert wait_until(has_begun, timedelta(seconds=DEADLINE_SECONDS))
        return read_until(reader, time.monotonic() + timeout)

    monkeypatch.setattr(command_process._Reader, "read_until", begin)


@pytest.mark.usefixtures("_timed_from_first_output")
def test_a_command_past_its_deadline_gets_term() -> None:
    collected = collect(shell("echo slow >&2; echo begun; sleep 60", timeout="300ms"))
    assert (collected.reason, collected.output) == ("timeout", "begun\n")
    assert collected.error == "did not end within 0.3 s and was stopped; it said: slow"
    assert values(collected)["command_exit_code"] == -signal.SIGTERM
    assert 0.3 <= values(collected)["command_duration_seconds"] < TIMEOUT_SECONDS


@pytest.mark.usefixtures("_timed_from_first_output")
def test_a_command_that_ignores_term_gets_kill_after_the_grace() -> None:
    collected = collect(shell("trap '' TERM; echo $$; while :; do sleep 60; done", timeout="300ms"))
    assert (collected.reason, values(collected)["command_exit_code"]) == ("timeout", -signal.SIGKILL)
    grace_seconds = command_process.GRACE.total_seconds()
    assert 0.3 + grace_seconds <= collected.duration_seconds < TIMEOUT_SECONDS
    assert ends(int(collected.output or ""))


def test_a_command_that_closes_its_pipes_is_still_timed() -> None:
    collected = collect(shell("exec >&- 2>&-; sleep 60", timeout="300ms"))
    assert collected.reason == "timeout"


def test_a_grandchild_that_holds_the_pipe_is_killed_and_holds_up_nothing() -> None:
    collected = collect(shell("sleep 60 & echo child $!", parse="key_value"))
    assert collected.error is None
    assert collected.duration_seconds < TIMEOUT_SECONDS
    assert ends(int(values(collected)["child"]))


def test_a_grandchild_in_a_session_of_its_own_holds_up_nothing() -> None:
    script = (
        "import os, time\n"
        "reading, writing = os.pipe()\n"
        "if os.fork(): os._exit(len(os.read(reading, 1)) - 1)\n"
        "os.setsid()\n"
        "print('child', os.getpid(), flush=True)\n"
        "os.write(writing, b'.')\n"
        "time.sleep(60)\n"
    )
    collected = collect(source(sys.executable, "-c", script, parse="key_value"))
    assert collected.duration_seconds < TIMEOUT_SECONDS
    os.kill(int(values(collected)["child"]), signal.SIGKILL)


@pytest.mark.usefixtures("_timed_from_first_output")
def test_the_whole_group_of_a_command_past_its_deadline_is_gone() -> None:
    collected = collect(shell("sh -c 'trap \"\" TERM; echo $$; sleep 60' & wait", timeout="300ms"))
    assert collected.reason == "timeout"
    assert ends(int(collected.output or ""))


def test_a_source_of_another_kind_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(TypeError, match="HostSource, not a command"):
        list(CommandCollector().collect(HostSource(name="host"), [TARGET]))


def test_a_missing_command_says_where_it_was_looked_for() -> None:
    collected = collect(source("no-such-command-at-all"))
    assert (collected.reason, next(iter(values(collected))), values(collected)["up"]) == ("not_found", "up", 0)
    assert "/usr/bin" in (collected.error or "")
    assert "command_exit_code" not in values(collected)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        ("#!/bin/sh\n", 0o644, "permission"),
        ("#!/no/such/interpreter\n", 0o755, "not_found"),
        ("neither a program nor a script", 0o755, "not_executable"),
    ],
)
def test_what_cannot_be_run_is_told_by_its_reason(tmp_path: Path, content: str, mode: int, reason: str) -> None:
    script = tmp_path / "script"
    script.write_text(content)
    script.chmod(mode)
    assert collect(source(str(script))).reason == reason


@pytest.mark.parametrize(
    ("command", "settings", "reason"),
    [
        (("/no/such/file",), {}, "not_found"),
        (("./script",), {}, "not_found"),
        (("/tmp",), {}, "permission"),  # noqa: S108 - any directory will do
        (("true", "nul\x00"), {}, "start"),
        (("true",), {"directory": "/no/such"}, "directory"),
        (("true",), {"environment": {"A=B": "1"}}, "start"),
    ],
)
def test_a_command_that_cannot_start_is_down_with_its_reason(
    command: tuple[str, ...], settings: dict[str, Any], reason: str
) -> None:
    collected = collect(source(*command, **settings))
    assert (collected.reason, values(collected)["up"]) == (reason, 0)


def test_a_program_in_the_working_directory_or_our_own_path_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "only-here"
    script.write_text("#!/bin/sh\n")
    script.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert collect(source("only-here", directory=str(tmp_path))).reason == "not_found"


def test_the_environment_is_clean_but_for_what_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGGREGATOR_DATABASE_URL", "postgresql://secret")
    collected = collect(source("env", environment={"COLOUR": "red", "LANG": "C"}, directory="/usr"))
    environment = dict(line.split("=", 1) for line in (collected.output or "").splitlines())
    assert environment.keys() == {"PATH", "LANG", "HOME", "COLOUR"}
    assert (environment["COLOUR"], environment["LANG"]) == ("red", "C")


def test_the_command_has_an_empty_stdin_a_session_and_a_directory_of_its_own() -> None:
    collected = collect(shell("cat; pwd; ps -o sid= -p $$; echo $$", directory="/usr"))
    directory, session, pid = (collected.output or "").split()
    assert (directory, session) == ("/usr", pid)


class _InterruptedError(Exception):
    """What a soft time limit raises in the middle of a task."""


def _interrupt(_number: int, _frame: object) -> None:
    raise _InterruptedError


def test_nothing_is_left_when_the_collection_is_interrupted(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    collecting = threading.get_ident()

    def interrupt_when_it_runs() -> None:
        wait_until(lambda: pid_file.exists() and bool(pid_file.read_text()), timedelta(seconds=DEADLINE_SECONDS))
        signal.pthread_kill(collecting, signal.SIGALRM)

    previous = signal.signal(signal.SIGALRM, _interrupt)
    interrupting = threading.Thread(target=interrupt_when_it_runs)
    try:
        with pytest.raises(_InterruptedError):  # noqa: PT012 - only the second line is there to be interrupted
            interrupting.start()
            collect(shell(f"echo $$ > {pid_file}; sleep 60"))
    finally:
        interrupting.join()
        signal.signal(signal.SIGALRM, previous)
    assert ends(int(pid_file.read_text()))


@dataclass(frozen=True)
class _Answer:
    output: str | None
    up: float


def _collect_in_child(queue: Any) -> None:
    collected = collect(shell("sleep 60 & echo a 1", parse="key_value"))
    queue.put(_Answer(collected.output, values(collected)["up"]))


def test_it_works_in_a_daemonic_child_as_celery_forks_them() -> None:
    queue = billiard.Queue()
    child = billiard.Process(target=_collect_in_child, args=(queue,), daemon=True)
    child.start()
    answer = queue.get(timeout=DEADLINE_SECONDS)
    child.join(DEADLINE_SECONDS)
    queue.close()
    queue.join_thread()
    assert (answer, child.exitcode) == (_Answer("a 1\n", 1.0), 0)


def test_a_process_that_even_kill_does_not_end_has_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_process, "_reap", lambda process: process.wait() and None)
    measured = values(collect(shell("exit 1")))
    assert measured["up"] == 0
    assert math.isnan(measured["command_exit_code"])

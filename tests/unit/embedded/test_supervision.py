"""The parts of `aggregator up` that decide and word: no process, no file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from aggregator.embedded.failure import explain_failure
from aggregator.embedded.news import News
from aggregator.embedded.ports import listen_address
from aggregator.embedded.service import HEALTHY_SECONDS, LONGEST_PAUSE_SECONDS, Backoff
from aggregator.embedded.status_poll import Glance, StatusReport
from aggregator.errors import EnvironmentRefusedError

if TYPE_CHECKING:
    from types import TracebackType

GLANCE = Glance("web1", 0.031, 0.2, 0.414, 0.4, "/")


@dataclass
class Lines:
    """A screen that only remembers."""

    said: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def say(self, line: str) -> None:
        self.said.append(line)

    def show(self, report: StatusReport | None) -> None:
        pass


def report(*problems: str, glances: tuple[Glance, ...] = (GLANCE,)) -> StatusReport:
    return StatusReport(problems=problems, series=1, glances=glances, tiers=())


def test_the_first_samples_are_told_once_per_machine() -> None:
    screen = Lines()
    news = News(screen, started_at=0.0)
    news.tell(None)
    news.tell(report(glances=()))
    assert not news.has_samples
    news.tell(report())
    news.tell(report())
    assert news.has_samples
    assert len(screen.said) == 1
    assert screen.said[0].endswith("web1: CPU 3 %, load 0.20, memory 41 %, disk 40 % (/)")


def test_a_machine_of_which_nothing_is_known_yet_is_no_news() -> None:
    screen = Lines()
    News(screen, started_at=0.0).tell(report(glances=(Glance("web1", None, None, None, None, None),)))
    assert screen.said == []


def test_problems_are_told_when_they_come_and_when_they_go() -> None:
    screen = Lines()
    news = News(screen, started_at=0.0)
    for problems in ((), ("a",), ("a", "b"), ("b",), ()):
        news.tell(report(*problems))
    assert screen.said[1:] == ["problem: a", "problem: b", "over: a", "over: b"]


def test_the_pauses_double_up_to_a_bound_while_it_dies_at_once() -> None:
    backoff, now, pauses = Backoff(), 0.0, []
    for _ in range(7):
        backoff.started(now)
        pauses.append(backoff.died(now))
        now += pauses[-1]
        assert backoff.is_due(now)
        assert not backoff.is_due(now - 0.1)
    assert pauses == [1, 2, 4, 8, 16, LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS]


def test_a_death_after_a_healthy_life_is_the_first_again() -> None:
    backoff = Backoff(pause_seconds=16.0)
    backoff.started(0.0)
    assert backoff.died(HEALTHY_SECONDS) == 1.0


def test_what_runs_is_not_due() -> None:
    backoff = Backoff()
    backoff.died(0.0)
    backoff.started(1.0)
    assert not backoff.is_due(1e9)


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:9810", ("127.0.0.1", 9810)),
        ("[::1]:9810", ("::1", 9810)),
        (":9810", ("127.0.0.1", 9810)),
        ("0.0.0.0:80", ("0.0.0.0", 80)),
    ],
)
def test_listen_addresses_are_split(listen: str, address: tuple[str, int]) -> None:
    assert listen_address(listen) == address


def test_an_address_without_a_port_is_refused() -> None:
    with pytest.raises(EnvironmentRefusedError, match="write 127"):
        listen_address("localhost")


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (
            'LOG: x\nFATAL:  could not write lock file "postmaster.pid": No space left on device\n',
            'could not write lock file "postmaster.pid": No space left on device; free some space there',
        ),
        ("initdb: error: could not create directory: Permission denied\n", "Permission denied; make it accessible"),
        ("", "it said nothing; its log says more"),
        ("something odd.\n", "something odd; its log says more"),
    ],
)
def test_a_failed_start_is_one_line_with_the_servers_reason_and_a_remedy(log: str, expected: str) -> None:
    message = str(explain_failure("PostgreSQL's start", log, place=Path("/data")))
    assert expected in message
    assert "\n" not in message
    assert "/data" in message

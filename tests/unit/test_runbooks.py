"""Runbooks: their headings, and commands that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from celery.bin.celery import celery as celery_command
from celery.worker.control import Panel

from aggregator.cli.app import run
from aggregator.cli.commands import COMMANDS
from tests.alerts import RUNBOOKS, alerts, commands

BOOKS = sorted(RUNBOOKS.glob("*.md"))
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
NAMES = {alert.name for alert in alerts()}
every_book = pytest.mark.parametrize("book", BOOKS, ids=lambda path: path.stem)


@every_book
def test_a_runbook_has_the_four_parts_and_each_says_something(book: Path) -> None:
    text = book.read_text()
    assert text.startswith(f"# {book.stem}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    assert all(part.strip() for part in re.split(r"^## .+$", text, flags=re.MULTILINE)[1:])
    assert max(map(len, text.splitlines())) <= 140


@every_book
def test_a_runbook_names_only_alerts_that_exist(book: Path) -> None:
    assert set(re.findall(r"\bAggregator[A-Z]\w+", book.read_text())) <= NAMES


def lines(program: str) -> list[tuple[str, ...]]:
    """All different command lines of a program in all runbooks, without its name."""
    return sorted({tuple(words[1:]) for book in BOOKS for words in commands(book) if words[0] == program})


@pytest.mark.parametrize("words", lines("aggregator"), ids=" ".join)
def test_a_command_of_a_runbook_exists_with_its_options(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert words[0] in {command.name for command in COMMANDS}
    assert run([words[0], "--help"]) == 0
    said = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in said] == []


@pytest.mark.parametrize("words", lines("celery"), ids=" ".join)
def test_a_command_of_celery_in_a_runbook_exists(words: tuple[str, ...]) -> None:
    assert words[:2] == ("-A", "aggregator")
    command = celery_command.commands[words[2]]
    if words[2] == "inspect":
        assert words[3] in Panel.meta
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[3:] if word.startswith("--")} <= options


def test_runbooks_have_commands_at_all() -> None:
    assert len(lines("aggregator")) > len(lines("celery")) > 1

"""A question to a server that hangs costs nobody more than the limit."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from aggregator.serving.asking import Question


def test_an_answer_is_kept_and_serves_all_who_ask() -> None:
    question = Question(itertools.count(1).__next__, kept_seconds=60)
    assert [question.answer(within_seconds=30) for _ in range(5)] == [1] * 5


def test_an_answer_that_is_no_longer_fresh_is_asked_for_again() -> None:
    question = Question(itertools.count(1).__next__, kept_seconds=0)
    assert [question.answer(within_seconds=30) for _ in range(3)] == [1, 2, 3]


def test_a_hanging_server_is_given_up_and_asked_by_one_thread_only() -> None:
    released, is_asked, begun = threading.Event(), threading.Event(), []

    def hang() -> str:
        begun.append(1)
        is_asked.set()
        released.wait(60)
        return "late"

    question = Question(hang, kept_seconds=60)
    started = time.monotonic()
    assert [question.answer(within_seconds=0.05) for _ in range(4)] == [None] * 4
    assert time.monotonic() - started < 30  # it hangs for twice as long
    assert is_asked.wait(30)
    assert len(begun) == 1
    released.set()
    assert question.answer(within_seconds=30) == "late"


def test_what_asking_raised_is_raised_to_whoever_asks() -> None:
    def fail() -> str:
        raise ValueError("away")

    question = Question(fail, kept_seconds=60)
    for _ in range(2):
        with pytest.raises(ValueError, match="away"):
            question.answer(within_seconds=30)

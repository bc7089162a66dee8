"""Ports that are handed out before anybody listens on them."""

from __future__ import annotations

import pytest

from aggregator.embedded.ports import free_port


def test_no_two_calls_give_the_same_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aggregator.embedded.ports._PORTS", (31_900, 32_000))
    given = [free_port() for _ in range(40)]
    assert len(set(given)) == len(given)

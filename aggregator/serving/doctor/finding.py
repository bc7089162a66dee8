"""What a diagnosis consists of: findings, each with its verdict and its remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "wrong", "unreachable", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what it is, how it is, and what to do about it (None: nothing)."""

    about: str
    verdict: Verdict
    says: str
    remedy: str | None = None


def fine(about: str, says: str) -> Finding:
    """Nothing to do."""
    return Finding(about, "ok", says)


def warning(about: str, says: str, remedy: str) -> Finding:
    """It works, and will cost something, or stop working one day."""
    return Finding(about, "warning", says, remedy)


def wrong(about: str, says: str, remedy: str) -> Finding:
    """It does not work, or not rightly."""
    return Finding(about, "wrong", says, remedy)


def unreachable(about: str, says: str, remedy: str) -> Finding:
    """A server that could not be asked."""
    return Finding(about, "unreachable", says, remedy)


def unknown(about: str, says: str, remedy: str | None = None) -> Finding:
    """It could not be found out."""
    return Finding(about, "unknown", says, remedy)

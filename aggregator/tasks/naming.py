"""Which job a message is about: the names that losses are counted by; the worker's parent needs no more than this."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PREFIX = "aggregator."
#: A subject is a name or a number, and never longer.
MOST_SUBJECT_CHARACTERS = 200


def short(task: str) -> str:
    """A task's name without our prefix."""
    return task.removeprefix(PREFIX)


def job_of(task: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> tuple[str, str] | None:
    """The task (short) and the subject of a message's job; None for what is never set aside.

    That is what somebody asked for by hand, and what a node says of itself.
    """
    name = short(task)
    if name in ("rollup", "maintain", "verify"):
        return name, ""
    if name == "wake":
        return _with_subject(name, _argument(arguments, named, 0, "source"))
    if name == "summarize":
        return _with_subject(name, _argument(arguments, named, 1, "name") or "")
    if name == "collect" and (shard := _argument(arguments, named, 1, "shard")) is not None:
        return _with_subject(name, f"{_argument(arguments, named, 0, 'source')}:{shard}")
    return None


def log_fields(task: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> dict[str, str | int]:
    """What a task works on, for every line that it logs: source, shard, slot and summary, as far as it has them."""
    places = _PLACES.get(short(task), {})
    found = {field: _argument(arguments, named, place, name) for field, (place, name) in places.items()}
    return {field: value for field, value in found.items() if isinstance(value, str | int)}


_SLOT = {"slot": (0, "slot")}
#: By task: the fields of its log lines, each with its place among the arguments and its name there.
_PLACES: Mapping[str, Mapping[str, tuple[int, str]]] = {
    "wake": {"source": (0, "source"), "slot": (1, "slot")},
    "collect": {"source": (0, "source"), "shard": (1, "shard"), "slot": (2, "slot")},
    "summarize": {**_SLOT, "summary": (1, "name")},
    "rollup": _SLOT,
    "maintain": _SLOT,
    "verify": _SLOT,
}


def _argument(arguments: Sequence[Any], named: Mapping[str, Any], place: int, name: str) -> Any:  # noqa: ANN401 - a message holds anything
    return arguments[place] if len(arguments) > place else named.get(name)


def _with_subject(name: str, subject: Any) -> tuple[str, str] | None:  # noqa: ANN401 - as above
    return (name, subject) if isinstance(subject, str) and len(subject) <= MOST_SUBJECT_CHARACTERS else None

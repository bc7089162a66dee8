"""What the web process says about the installation: asked for over HTTP, as anybody else would."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

_TIMEOUT_SECONDS = 1.0
_BODY_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Glance:
    """A machine at a glance; ratios from 0 to 1, None where not known yet."""

    instance: str
    cpu_busy_ratio: float | None
    load1: float | None
    memory_used_ratio: float | None
    disk_fullest_ratio: float | None
    disk_mountpoint: str | None


@dataclass(frozen=True, slots=True)
class TierState:
    """A tier: its newest bucket (ISO 8601, UTC) and how late it is, in seconds."""

    name: str
    newest_bucket: str | None
    lag_seconds: float | None


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The part of `/api/v1/status` that `aggregator up` shows."""

    problems: tuple[str, ...]
    series: int
    glances: tuple[Glance, ...]
    tiers: tuple[TierState, ...]


def read_status(host: str, port: int) -> StatusReport | None:
    """Ask once; None where there is no answer within a second or so, or none that can be understood."""
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/api/v1/status")
        answer = connection.getresponse()
        body = answer.read(_BODY_BYTES)
        return _report(json.loads(body)) if answer.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        return None
    finally:
        connection.close()


def _report(document: dict[str, Any]) -> StatusReport:
    return StatusReport(
        problems=tuple(str(problem) for problem in document.get("problems", ())),
        series=sum(source.get("series") or 0 for source in document.get("sources", ())),
        glances=tuple(
            Glance(**{name: one.get(name) for name in Glance.__slots__}) for one in document.get("glance", ())
        ),
        tiers=tuple(
            TierState(one["name"], one.get("newest_bucket"), one.get("lag_seconds"))
            for one in document.get("tiers", ())
        ),
    )

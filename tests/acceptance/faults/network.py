"""Faults of the network: connections that go silent without being closed, for a while or for ever."""

from __future__ import annotations

from datetime import timedelta

from tests.acceptance.faults.fault import HALF_OPEN, Fault, lasting

_SILENCE = lasting(5, 60)

BROKER_SILENT = Fault(
    "broker silent, then heard again",
    "nobody hangs for ever",
    lambda scene: scene.broker_proxy.fall_silent(),
    lambda scene: scene.broker_proxy.speak(),
    lasts=_SILENCE,
    limit=HALF_OPEN,
)
BROKER_FORGOTTEN = Fault(
    "all broker connections half-open for ever",
    "time-outs, then new connections",
    lambda scene: scene.broker_proxy.forget(),
    lasts=timedelta(0),
    limit=HALF_OPEN,
)
DATABASE_SILENT = Fault(
    "database silent, then heard again",
    "nobody hangs for ever",
    lambda scene: scene.database_proxy.fall_silent(),
    lambda scene: scene.database_proxy.speak(),
    lasts=_SILENCE,
    limit=HALF_OPEN,
)
DATABASE_FORGOTTEN = Fault(
    "all database connections half-open for ever",
    "time-outs, then new connections",
    lambda scene: scene.database_proxy.forget(),
    lasts=timedelta(0),
    limit=HALF_OPEN,
)
QUICK = (BROKER_FORGOTTEN, DATABASE_FORGOTTEN)
FAULTS = (BROKER_SILENT, BROKER_FORGOTTEN, DATABASE_SILENT, DATABASE_FORGOTTEN)

"""The faults of a soak: all that take nothing away for good."""

from __future__ import annotations

from tests.acceptance.faults import brokers, network, postgres, processes
from tests.acceptance.faults.fault import Fault

ALL: tuple[Fault, ...] = (*processes.FAULTS, *brokers.FAULTS, *network.FAULTS, *postgres.FAULTS)
FAULTS = tuple(fault for fault in ALL if fault.is_restorable)

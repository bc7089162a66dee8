"""`make soak MINUTES=60 SEED=7`: prints each fault with its recovery, and at the end what the ledger says."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.acceptance.faults.fault import PATIENCE_VARIABLE
from tests.acceptance.soak.run import Plan, soak, summary

#: It has the machine for itself, other than the suite.
_PATIENCE = "3"


def main() -> int:
    """Exit 1 where anything was not right."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, which is printed")
    parser.add_argument("--fault-every", type=float, default=30.0, metavar="SECONDS")
    parser.add_argument("--folder", type=Path, default=None, help="where everything is written")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else random.randrange(1_000_000)  # noqa: S311 - secures nothing
    folder = given.folder or Path("soaks") / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{seed}"
    if folder.exists():
        parser.error(f"{folder} exists; name a folder that is to be made")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what it has started is ended
    os.environ.setdefault(PATIENCE_VARIABLE, _PATIENCE)
    plan = Plan(timedelta(minutes=given.minutes), timedelta(seconds=given.fault_every), seed, folder.absolute())
    _say(f"soak of {given.minutes:g} minutes, seed {seed}, in {plan.folder}")
    result = soak(plan, say=_say)
    _say("\n" + summary(result))
    return 0 if result.is_right else 1


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

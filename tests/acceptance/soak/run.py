"""One soak: a random fault every so many seconds while everything runs, then the check of the ledger."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from tests.acceptance.faults.fault import Endured, Fault, endure
from tests.acceptance.faults.scene import Cast, Scene, scene
from tests.acceptance.faults.servers import Redis
from tests.acceptance.ledger_check import STRAY_SHARE, LedgerCheck, Outage, assert_no_slot_was_caught_up
from tests.acceptance.soak.faults import FAULTS
from tests.acceptance.soak.gauges import Watch

#: Of the slots: so many may be missing while nothing is broken, where the machine has hardly anything else to do.
FEW_STRAYS = 0.02
#: In less time nothing can be said of what grows.
LEAST_TO_JUDGE = timedelta(minutes=4)
_LOOK_SECONDS = 10.0
_RESTORE_PATIENCE = timedelta(minutes=3)


@dataclass(frozen=True)
class Plan:
    """How long it takes, and what happens meanwhile; `folder` gets all that is written."""

    duration: timedelta
    fault_every: timedelta
    seed: int
    folder: Path
    faults: Sequence[Fault] = FAULTS


@dataclass
class Result:
    """What a soak has shown."""

    plan: Plan
    endured: list[Endured] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    watch: Watch = field(default_factory=Watch)
    check: LedgerCheck | None = None
    restarts: dict[str, int] = field(default_factory=dict)

    @property
    def is_right(self) -> bool:
        """Whether nothing failed."""
        return not self.failures


def soak(plan: Plan, *, say: Callable[[str], None]) -> Result:
    """Run it to its end, whatever happens on the way; what failed is in the result."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with _open_directory() as servers:
        cast = Cast(workers=2, beats=2, web=True)
        with scene(plan.folder / "machines", servers, cast=cast) as made:
            result = Result(plan)
            with _noting(result, "the mix ended early"):
                _mix(made, result, say)
            result.restarts = {actor.name: actor.restarts for actor in made.actors}
            with _noting(result, "the check"):
                _judge(made, result)
            with contextlib.suppress(OSError):
                shutil.copy(servers / "pg" / "server.log", plan.folder / "postgresql.log")
    _write(plan.folder, result)
    return result


def _mix(made: Scene, result: Result, say: Callable[[str], None]) -> None:
    plan = result.plan
    choice = random.Random(plan.seed)  # noqa: S311 - it is to be repeatable
    began = time.monotonic()
    bag: list[Fault] = []
    for number in range(1, round(plan.duration / plan.fault_every) + 1):
        _live(made, result.watch, until=began + number * plan.fault_every.total_seconds())
        # Each fault comes once, however slow the machine is.
        if number > len(plan.faults) and time.monotonic() - began >= plan.duration.total_seconds():
            break
        # Every fault once before any comes again: an hour has some 120 of them.
        bag = bag or choice.sample(plan.faults, len(plan.faults))
        _one(made, result, bag.pop(), say)
        # Here and not only between two faults: where recovery takes long, there is no time between them.
        result.watch.look(made)
    _live(made, result.watch, until=began + plan.duration.total_seconds())


def _live(made: Scene, watch: Watch, *, until: float) -> None:
    while (left := until - time.monotonic()) > 0:
        if not watch.samples or time.monotonic() - watch.started - watch.samples[-1][0] >= _LOOK_SECONDS:
            watch.look(made)
        made.live(timedelta(seconds=min(left, 1.0)))


def _one(made: Scene, result: Result, fault: Fault, say: Callable[[str], None]) -> None:
    began = datetime.now(UTC)
    at = f"{began:%H:%M:%S}"
    with _noting(result, fault.name):
        endured = endure(made, fault)
        result.endured.append(endured)
        say(f"{at}  {fault.name}: {endured.seconds:.1f} s, all sources {endured.all_seconds:.1f} s")
        return
    say(f"{at}  FAILED {result.failures[-1]}")
    with _noting(result, f"after {fault.name}"):
        _restore(made, began)


def _restore(made: Scene, began: datetime) -> None:
    """Whatever a failed fault has left behind: everybody runs again, and something is collected."""
    for proxy in (made.database_proxy, made.broker_proxy):
        proxy.speak()
    if not made.postgres.answers():
        made.postgres.kill()
        made.postgres.start()
    if isinstance(made.broker, Redis):
        if not made.broker.answers():
            made.broker.kill()
            made.broker.start()
        with made.broker.client() as client:
            client.config_set("maxmemory", "0")
    for actor in made.actors:
        actor.is_wanted = True  # one that is still ending is started again by its supervisor
        if actor.running is None or actor.running.process.poll() is not None:
            actor.start()
        with contextlib.suppress(ProcessLookupError):
            os.kill(actor.process_id, signal.SIGCONT)
    now, wanted = datetime.now(UTC), made.shards()
    made.wait(lambda: wanted <= set(made.collected_since(now)), _RESTORE_PATIENCE)
    made.outages.append(Outage(began, datetime.now(UTC)))


@contextlib.contextmanager
def _noting(result: Result, what: str) -> Iterator[None]:
    """Note what fails, and go on: one night may show more than one thing."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - as above
        result.failures.append(f"{datetime.now(UTC):%H:%M:%S} {what}: {type(error).__name__}: {error}")


def _judge(made: Scene, result: Result) -> None:
    """The check of the ledger, and what has grown."""
    check = result.check = made.check()
    result.failures += check.faults[:20]
    with _noting(result, "after the soak"):
        assert_no_slot_was_caught_up(made.database_url, waited_seconds=60)
    is_long = result.plan.duration >= LEAST_TO_JUDGE
    result.failures += check.strayed(FEW_STRAYS if is_long else STRAY_SHARE)
    if is_long:
        result.failures += [f"{name} has grown" for name in result.watch.grown()]


def summary(result: Result) -> str:
    """What a soak has shown, in Markdown."""
    plan = result.plan
    seconds: defaultdict[str, list[Endured]] = defaultdict(list)
    for one in result.endured:
        seconds[one.fault.name].append(one)
    lines = [
        f"# Soak of {plan.duration.total_seconds() / 60:g} minutes, seed {plan.seed}",
        "",
        f"{len(result.endured)} faults endured, one every {plan.fault_every.total_seconds():g} s.",
        f"Ledger: {result.check}.",
        f"Started again by the supervisor: {', '.join(f'{name} {count}' for name, count in result.restarts.items())}.",
        "",
        "| fault | times | median s | worst s | all sources, worst s | promised s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in sorted(seconds.items()):
        took, whole = [one.seconds for one in found], max(one.all_seconds for one in found)
        limit = found[0].fault.limit.total_seconds()
        lines.append(f"| {name} | {len(took)} | {median(took):.1f} | {max(took):.1f} | {whole:.1f} | {limit:g} |")
    lines += ["", result.watch.table(), ""]
    lines += [f"FAILED: {one}" for one in result.failures] or ["Everything is right."]
    return "\n".join(lines) + "\n"


def _write(folder: Path, result: Result) -> None:
    (folder / "summary.md").write_text(summary(result))
    _write_lines(folder / "faults.jsonl", [one.row | {"at": one.ended.isoformat()} for one in result.endured])
    _write_lines(folder / "gauges.jsonl", [{"at": at, **measured} for at, measured in result.watch.samples])


def _write_lines(path: Path, found: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(one) + "\n" for one in found))


@contextlib.contextmanager
def _open_directory() -> Iterator[Path]:
    """A directory that PostgreSQL's user can pass through, with a path short enough for its sockets."""
    directory = Path(tempfile.mkdtemp(prefix="aggregator-soak-", dir="/tmp"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)

"""The collector of kind `command`: runs what the configuration names, and reads numbers from what it prints."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from aggregator.collectors.command_output import Printed, parse_output
from aggregator.collectors.command_process import Finished, run_command
from aggregator.collectors.outcome import REPORTED, failed, now
from aggregator.collectors.placing import Placer
from aggregator.collectors.protocol import Batch, Collected, Target
from aggregator.config.source_model import BaseSource, CommandSource
from aggregator.errors import RejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

log = structlog.get_logger(__name__)

#: What every command that was started has besides; `keep` and `drop` do not touch them.
COMMAND_REPORTED = ("command_exit_code", "command_duration_seconds")
_ERROR_CHARACTERS = 500


class CommandCollector:
    """Runs the command of a source on this machine, once for each target (there is one), and waits for it."""

    def __init__(self) -> None:
        self._succeeded = Placer((*REPORTED, *COMMAND_REPORTED))
        self._failed = Placer((*REPORTED, *COMMAND_REPORTED))

    def collect(self, source: BaseSource, targets: Sequence[Target]) -> Iterator[Collected]:
        """Run the command; a failing one gives `up` 0 and what it wrote to stderr as the error. Never raises for it."""
        if not isinstance(source, CommandSource):
            raise TypeError(f"source {source.name} is of kind {type(source).__name__}, not a command")
        for target in targets:
            collected = self._collect_one(source, target)
            if collected.error is not None:
                log.warning("command_failed", source=source.name, target=target.address, reason=collected.reason)
            yield collected

    def _collect_one(self, source: CommandSource, target: Target) -> Collected:
        started_at, started = now(), time.perf_counter()
        try:
            finished = _run(source)
        except RejectedError as error:
            duration = time.perf_counter() - started
            return failed(
                target, started_at=started_at, duration_seconds=duration, reason=error.reason, error=_shown(str(error))
            )
        try:
            printed = _printed(source, finished)
        except RejectedError as error:
            collected = self._stored(source, target, started_at=started_at, finished=finished, printed=None)
            return replace(collected, error=_shown(str(error)), reason=error.reason)
        return self._stored(source, target, started_at=started_at, finished=finished, printed=printed)

    def _stored(
        self,
        source: CommandSource,
        target: Target,
        *,
        started_at: datetime,
        finished: Finished,
        printed: Printed | None,
    ) -> Collected:
        samples = printed.samples if printed else ()
        rejected = dict(printed.rejected) if printed else {}
        placer = self._failed if printed is None else self._succeeded
        placement = placer.place(source, target, tuple(sample.series for sample in samples))
        if placement.duplicates:
            rejected["duplicate"] = rejected.get("duplicate", 0) + placement.duplicates
        exit_code = float("nan") if finished.exit_code is None else finished.exit_code
        duration = finished.duration_seconds
        reported = (float(printed is not None), duration, len(samples), exit_code, duration)
        values = placement.values(reported, [sample.value for sample in samples])
        return Collected(
            target,
            started_at,
            duration,
            (Batch(started_at, placement.keys, values),),
            samples=len(placement.kept),
            rejected=rejected,
            output=finished.standard_output.decode(errors="replace"),
        )


def _run(source: CommandSource) -> Finished:
    return run_command(
        source.command,
        environment=source.environment,
        directory=source.directory,
        output_bytes=source.output_bytes,
        timeout=source.deadline,
    )


def _printed(source: CommandSource, finished: Finished) -> Printed:
    """The samples of a command that ended well. Raises RejectedError for any other."""
    stderr = finished.standard_error.decode(errors="replace").strip()
    if finished.breach == "timeout":
        said = f"; it said: {stderr}" if stderr else ""
        raise RejectedError(
            "timeout", f"did not end within {source.deadline.total_seconds():g} s and was stopped{said}"
        )
    if finished.breach == "output_too_large":
        raise RejectedError(
            "output_too_large", f"printed more than {source.output_bytes} bytes (output_bytes) and was stopped"
        )
    if finished.exit_code != 0:
        raise RejectedError("exit_code", stderr or _ending(finished.exit_code))
    return parse_output(finished.standard_output, parse=source.parse, limits=source.limits)


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "did not end even after KILL"
    how = f"ended with exit code {exit_code}" if exit_code > 0 else f"was ended by signal {-exit_code}"
    return f"{how} and wrote nothing to stderr"


def _shown(text: str) -> str:
    """The text as it can be stored: cut, and without NUL, which PostgreSQL refuses."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:_ERROR_CHARACTERS]

"""One tree of errors: a leaf's docstring is its default message, and it says whether trying again can help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class AggregatorError(Exception):
    """The aggregator could not do what it was asked; the message says why and what to do."""

    #: Whether the same call may succeed later without anybody changing anything.
    retry: ClassVar[bool] = False
    #: The exit code of a command that ends with this error (interface: 1 found wrong, 2 usage, 3 no server).
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or type(self).__name__).strip())


@dataclass(frozen=True)
class Fault:
    """One thing wrong in the configuration: where it is, what is wrong, and what would be right."""

    file: str
    line: int | None
    field: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.field}: {self.message}" if self.field else f"{place}: {self.message}"


class ConfigurationError(AggregatorError):
    """The configuration is not valid; `aggregator check` lists every fault."""

    exit_code = 2

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults
        super().__init__("\n".join(str(fault) for fault in faults) or None)


class UsageError(AggregatorError):
    """The command was called in a way that cannot work; the message says what to type."""

    exit_code = 2


class ServerUnreachableError(AggregatorError):
    """A server cannot be reached; the message names the setting that says where it is."""

    retry = True
    exit_code = 3


class EnvironmentRefusedError(AggregatorError):
    """This machine lacks something (a port, a right, disk space); the message says which and the remedy."""

    exit_code = 3


class SchemaOutdatedError(AggregatorError):
    """The database's schema is not at this version; run `aggregator db migrate`."""

    exit_code = 3


class RoleRefusedError(AggregatorError):
    """This database user may not make roles; let one who may run the SQL above, as `--print-sql` shows it too."""


class UnknownSourceError(AggregatorError):
    """No such source is configured; add a [[sources]] entry of that name, or use one that exists."""

    exit_code = 2


class UnknownSummaryError(AggregatorError):
    """No such summary has been computed; add a [[summaries]] entry of that name, or wait for its first refresh."""

    exit_code = 2


class SummaryNotReadyError(AggregatorError):
    """The summary has no value yet; it was asked for, and will be there after its first refresh."""

    retry = True


class QueryRefusedError(AggregatorError):
    """The query of a summary cannot be answered; the message says why and what to write."""


class SelectorError(AggregatorError):
    """The selector cannot be read; write it as Prometheus does: name{label="value",other=~"regex"}."""

    exit_code = 2


class RejectedError(AggregatorError):
    """What a target sent was refused as a whole: nothing of it is kept.

    `reason` is a short static word (a label value of `aggregator_samples_rejected_total`).
    """

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class SeriesLimitError(AggregatorError):
    """A source has as many series as it may have; raise its series_limit, or expose and keep less."""

    def __init__(self, *, registered: int, new: int, limit: int) -> None:
        self.registered, self.new, self.limit = registered, new, limit
        has = f"{registered:,}" if registered <= limit else f"more than {limit:,}"
        super().__init__(
            f"{new:,} series are new, but the source has {has} of at most {limit:,}; find the label that "
            "keeps changing and drop it, or raise the source's series_limit"
        )


class DamagedFileError(AggregatorError):
    """A file to be imported cannot be read; the message names the file, the line and the reason."""


class QuarantinedError(AggregatorError):
    """This job keeps losing its process and is set aside for a while; `aggregator quarantine list` says until when."""

    retry = True


class UnknownJobError(AggregatorError):
    """No job of that name is set aside; `aggregator quarantine list` shows their names."""

    exit_code = 2


class CollectionFailedError(AggregatorError):
    """A collection asked for by hand failed on every target; the message is the first target's error."""


class ClockDiffersError(AggregatorError):
    """This machine's clock and PostgreSQL's differ; set both by NTP: nothing is stored at times that may be wrong."""

    retry = True


class LeaseLostError(AggregatorError):
    """Another worker took this collection over after the lease had run out; what it stores is what counts."""

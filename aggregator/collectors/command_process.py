"""Running one command: no shell, a clean environment, a group of its own, and nothing of it left afterwards."""

from __future__ import annotations

import errno
import os
import pwd
import selectors
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal, Self

from aggregator.errors import RejectedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SAFE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: What of stderr is kept, for the error text; the rest is read and thrown away, so that the command can go on.
STANDARD_ERROR_BYTES = 65_536
#: Between TERM and KILL.
GRACE = timedelta(seconds=2)
_READ_BYTES = 65_536
#: How soon the end of a command is seen while something else holds its pipes open.
_POLL_SECONDS = 0.05
#: For a process that KILL does not end at once (it waits for a dead disk).
_REAP_SECONDS = 1.0


@dataclass(frozen=True)
class Finished:
    """How a command that was started has ended.

    `exit_code` is negative for a signal, as in subprocess, and None where even KILL did not end it. `breach` says which
    bound it broke, if any.
    """

    standard_output: bytes
    standard_error: bytes
    exit_code: int | None
    duration_seconds: float
    breach: Literal["timeout", "output_too_large"] | None


def run_command(
    command: Sequence[str], *, environment: Mapping[str, str], directory: str, output_bytes: int, timeout: timedelta
) -> Finished:
    """Run the command and give back what it printed, at the latest `timeout` + GRACE later.

    Every process of its group is gone then: the group gets TERM when a bound is broken, and KILL after the grace; after
    a normal end what is left of the group gets KILL. Raises RejectedError where it cannot be started (`not_found`,
    `permission`, `directory`, `not_executable`, `start`).
    """
    started = time.monotonic()
    with (
        _started(command, environment=environment, directory=directory) as process,
        _Reader(process, output_bytes) as reader,
    ):
        breach = reader.read_until(started + timeout.total_seconds())
        if breach:
            _signal_group(process, signal.SIGTERM)
            reader.discard_until(time.monotonic() + GRACE.total_seconds())
        _signal_group(process, signal.SIGKILL)
        exit_code = _reap(process)
        breach = breach or reader.read_rest()
    duration = time.monotonic() - started
    return Finished(bytes(reader.output), bytes(reader.errors), exit_code, duration, breach)


@contextmanager
def _started(
    command: Sequence[str], *, environment: Mapping[str, str], directory: str
) -> Iterator[subprocess.Popen[bytes]]:
    process = _start(command, environment=environment, directory=directory)
    try:
        yield process
    finally:  # also when a time limit of the task interrupts us
        if process.returncode is None:
            _signal_group(process, signal.SIGKILL)
            _reap(process)


def _start(command: Sequence[str], *, environment: Mapping[str, str], directory: str) -> subprocess.Popen[bytes]:
    executable = _resolve(command[0])
    if not os.path.isdir(directory):  # noqa: PTH112 - Path.is_dir raises for a name with a NUL or without the right
        raise RejectedError("directory", f"the directory {directory} does not exist or cannot be entered")
    try:
        return subprocess.Popen(
            [executable, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=directory,
            env={**_clean_environment(), **environment},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise RejectedError("not_found", f"{executable} does not exist, or the interpreter that it names") from None
    except PermissionError as error:
        raise RejectedError("permission", f"{executable} may not be run: {error.strerror}") from None
    except (OSError, ValueError) as error:
        is_no_program = isinstance(error, OSError) and error.errno == errno.ENOEXEC
        reason = "not_executable" if is_no_program else "start"
        raise RejectedError(reason, f"{executable} cannot be started: {error}") from None


def _resolve(executable: str) -> str:
    if executable.startswith("/"):
        return executable
    if "/" in executable:
        raise RejectedError("not_found", f"{executable} is a relative path; write it from / on, or a bare name")
    found = shutil.which(executable, path=SAFE_PATH)
    if found is None:
        raise RejectedError("not_found", f"{executable} is not in {SAFE_PATH}; write its path from / on")
    return found


def _clean_environment() -> dict[str, str]:
    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:  # a container may run as a user that has no name
        home = "/"
    return {"PATH": SAFE_PATH, "LANG": "C.UTF-8", "HOME": home}


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The leader is not reaped yet, so its number still belongs to this group and to no other.
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)


def _reap(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the leader has ended, without reaping it."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class _Reader:
    """Reads both pipes as far as the caps allow; never waits longer than it is told."""

    def __init__(self, process: subprocess.Popen[bytes], output_bytes: int) -> None:
        self.output = bytearray()
        self.errors = bytearray()
        self._process = process
        self._output_bytes = output_bytes
        self._is_too_large = False
        self._selector = selectors.DefaultSelector()

    def __enter__(self) -> Self:
        for pipe, kept in ((self._process.stdout, self.output), (self._process.stderr, self.errors)):
            assert pipe is not None  # noqa: S101 - both were asked for; this tells the type checker
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, kept)
        return self

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def read_until(self, deadline: float) -> Literal["timeout", "output_too_large"] | None:
        """Read until the leader has ended, or a bound is broken; `deadline` is an instant of the monotonic clock."""
        while not _has_ended(self._process):
            if time.monotonic() >= deadline:
                return "timeout"
            self._read_once(min(_POLL_SECONDS, deadline - time.monotonic()))
            if self._is_too_large:
                return "output_too_large"
        return None

    def discard_until(self, deadline: float) -> None:
        """Read on after TERM, so that a command that says goodbye is not stuck in a full pipe."""
        while not _has_ended(self._process) and time.monotonic() < deadline:
            self._read_once(_POLL_SECONDS)

    def read_rest(self) -> Literal["output_too_large"] | None:
        """What still lies in the pipes, without waiting: a process that left the group may hold them open for ever."""
        while not self._is_too_large and self._read_once(0):
            pass
        return "output_too_large" if self._is_too_large else None

    def _read_once(self, patience_seconds: float) -> bool:
        if not self._selector.get_map():  # both pipes are closed, but the leader has not ended
            time.sleep(max(0, patience_seconds))
            return False
        ready = self._selector.select(max(0, patience_seconds))
        for key, _ in ready:
            self._take(key)
        return bool(ready)

    def _take(self, key: selectors.SelectorKey) -> None:
        try:
            data = os.read(key.fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._selector.unregister(key.fileobj)
            return
        kept: bytearray = key.data
        is_output = kept is self.output
        room_bytes = (self._output_bytes if is_output else STANDARD_ERROR_BYTES) - len(kept)
        kept += data[:room_bytes]
        self._is_too_large |= is_output and len(data) > room_bytes

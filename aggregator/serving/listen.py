"""Addresses to listen on, as people write them."""

from __future__ import annotations

import errno

from aggregator.errors import EnvironmentRefusedError, UsageError

HIGHEST_PORT = 65_535


def parse_listen(text: str) -> tuple[str, int]:
    """A host and a port from `127.0.0.1:9811` or `[::1]:9811`; raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > HIGHEST_PORT:
        raise UsageError(f"{text!r} is no address to listen on; write host:port, such as 127.0.0.1:9811")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - ":9811" is how one asks for every interface


def refusal(error: OSError, *, what: str, listen: str, setting: str, remedy: str) -> EnvironmentRefusedError:
    """Why nothing can listen on an address, with the setting that holds it; `remedy` is for one that is taken."""
    if error.errno == errno.EADDRINUSE:
        return EnvironmentRefusedError(f"the {what}'s address {listen} is taken; {remedy}: set {setting}")
    return EnvironmentRefusedError(f"the {what} cannot listen on {listen} ({error.strerror}); see {setting}")

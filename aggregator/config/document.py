"""The configuration file: where it is looked for, and its content with the line of every key."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aggregator.config import defaults
from aggregator.config.lines import Path as KeyPath
from aggregator.config.lines import key_lines, line_of
from aggregator.errors import ConfigurationError, Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILE_NAME = "aggregator.toml"
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True)
class Document:
    """What one file says; without a file everything is empty and the defaults are in force."""

    path: Path | None = None
    table: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """What relative paths in the file count from."""
        return Path() if self.path is None else self.path.parent

    def fault(self, key: KeyPath, field_name: str, message: str) -> Fault:
        """A fault at the line of a key, or of what is nearest above it."""
        return Fault(str(self.path or "defaults"), line_of(self.lines, key), field_name, message)


def read_document(explicit: Path | None, environment: Mapping[str, str]) -> Document:
    """Read the first file of: `explicit`, AGGREGATOR_CONFIG, ./aggregator.toml, the user's, /etc.

    Raises ConfigurationError where a file that was named is missing, or the one found cannot be read or is no TOML.
    """
    path = _find(explicit, environment)
    if path is None:
        return Document()
    text = _text_of(path)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, line = _syntax_error(str(error), text)
        raise ConfigurationError(Fault(str(path), line, "", f"this is not TOML: {message}")) from None
    return Document(path, table, key_lines(text))


def _find(explicit: Path | None, environment: Mapping[str, str]) -> Path | None:
    if explicit is not None:
        return explicit
    if environment.get("AGGREGATOR_CONFIG"):
        return Path(environment["AGGREGATOR_CONFIG"])
    return next((path for path in _candidates(environment) if _is_there(path)), None)


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    yield Path(FILE_NAME)
    user_directory = defaults.user_config_dir(environment)
    if user_directory is not None:
        yield user_directory / FILE_NAME
    yield Path("/etc/aggregator") / FILE_NAME


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder that this user may not look into is somebody else's
        return False


def _text_of(path: Path) -> str:
    try:
        # As bytes, so that tomllib and not Python's universal newlines decides what ends a line.
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(Fault(str(path), line, "", "this is not UTF-8; save the file as UTF-8")) from None
    except OSError as error:
        remedy = "; `aggregator init` writes a sample" if isinstance(error, FileNotFoundError) else ""
        message = f"cannot be read: {error.strerror or error}{remedy}"
        raise ConfigurationError(Fault(str(path), None, "", message)) from None


def _syntax_error(message: str, text: str) -> tuple[str, int | None]:
    """The parser's sentence without its place, and the line of the place."""
    place = _PLACE.search(message)
    if place is None:
        return message, None
    line = int(place[1]) if place[1] else max(1, len(text.splitlines()))
    return message[: place.start()], line

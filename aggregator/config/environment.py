"""Settings from the environment: one variable per scalar, and secrets from files."""

from __future__ import annotations

import re
import typing
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from pydantic import SecretStr

from aggregator.config.model import Settings
from aggregator.errors import Fault

if typing.TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PREFIX = "AGGREGATOR_"
FILE_SUFFIX = "_file"
#: Variables that are read elsewhere: where the file is, and Celery's own settings.
_OTHERS = ("AGGREGATOR_CONFIG", "AGGREGATOR_CELERYCONFIG")
#: What tests and benchmarks of the project are told.
_OTHER_PREFIXES = ("AGGREGATOR_TEST_", "AGGREGATOR_BENCH_")
#: The URLs of `[databases]`, which `config.databases` reads.
DATABASE_VARIABLE = re.compile(r"AGGREGATOR_DATABASES_(?P<name>[A-Z][A-Z0-9_]*?)_URL(?P<file>_FILE)?")
_LISTS = ("sources", "tiers", "summaries", "rules", "databases", "file")

SCALARS = tuple(name for name in Settings.model_fields if name not in _LISTS)


@dataclass(frozen=True)
class Given:
    """A value that was given for a scalar setting, and where: `place` is a file, a variable or a flag."""

    field: str
    value: object
    place: str
    line: int | None = None

    def fault(self, message: str) -> Fault:
        """What is wrong with it."""
        return Fault(self.place, self.line, self.field, message)


def is_secret(field: str) -> bool:
    """Whether a setting holds a password, so that it may come from a file and never be shown."""
    return SecretStr in typing.get_args(Settings.model_fields[field].annotation)


def from_environment(environment: Mapping[str, str]) -> Iterator[Given | Fault]:
    """What the variables `AGGREGATOR_<SETTING>` and `AGGREGATOR_<SETTING>_FILE` say.

    An empty variable is as good as none. An unknown one is a fault: mistyped, it would otherwise do nothing, silently.
    """
    given = {name: value for name, value in sorted(environment.items()) if name.startswith(PREFIX) and value}
    for variable, value in given.items():
        if variable in _OTHERS or variable.startswith(_OTHER_PREFIXES) or DATABASE_VARIABLE.fullmatch(variable):
            continue
        field = variable.removeprefix(PREFIX).lower()
        if field in SCALARS:
            yield _typed(Given(field, value, variable))
        elif field.removesuffix(FILE_SUFFIX) not in SCALARS:
            yield Fault(variable, None, "", f"no such setting{_suggestion(variable)}")
        elif variable[: -len(FILE_SUFFIX)] in given:
            yield Fault(variable, None, "", f"{variable[: -len(FILE_SUFFIX)]} is set as well; keep one of the two")
        else:
            read = read_secret(Given(field.removesuffix(FILE_SUFFIX), value, variable), Path())
            yield read if isinstance(read, Fault) else _typed(read)


def read_secret(given: Given, folder: Path) -> Given | Fault:
    """The content, without its last newline, of the file that `given` names; a relative path counts from `folder`."""
    if not isinstance(given.value, str):
        return given.fault(f"a path is a text in quotes, not {given.value!r}")
    path = folder / Path(given.value).expanduser()
    try:
        content = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not UTF-8"
        return given.fault(f"{path} cannot be read: {reason}")
    return replace(given, value=content) if content else given.fault(f"{path} is empty; write the value into it")


def _typed(given: Given) -> Given | Fault:
    """A variable is a text; where the setting is a number, so is what is returned."""
    if Settings.model_fields[given.field].annotation is not int:
        return given
    try:
        return replace(given, value=int(str(given.value)))
    except ValueError:
        return given.fault(f"{given.value!r} is not a whole number")


def _suggestion(variable: str) -> str:
    known = [PREFIX + field.upper() for field in SCALARS] + list(_OTHERS)
    close = get_close_matches(variable, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; see docs/configuration.md"

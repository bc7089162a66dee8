"""Settings from defaults, file, environment and flags; a later one of these wins."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from aggregator.config import defaults
from aggregator.config.checks import check_scalars, check_summaries, check_tiers
from aggregator.config.databases import SECTION as DATABASES
from aggregator.config.databases import read_databases
from aggregator.config.document import Document, read_document
from aggregator.config.entries import Entries, resolved
from aggregator.config.environment import FILE_SUFFIX, PREFIX, SCALARS, Given, from_environment, is_secret, read_secret
from aggregator.config.faults import explain, no_such_key
from aggregator.config.filters import check_filters
from aggregator.config.model import NamedDatabase, Settings
from aggregator.errors import ConfigurationError, Fault
from aggregator.known_secrets import remember_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aggregator.config.lines import Path as KeyPath

_SECTIONS = ("sources", "tiers", "summaries", "rules", DATABASES)


def load_settings(
    explicit: Path | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Read and check the whole configuration.

    `explicit` is the file of `--config`; `environment` is this process' own unless given; `overrides` are flags, by
    the name of the setting (None: not given). URLs that are not configured stay None: see `with_running_servers`.

    Raises ConfigurationError with every fault that there is, each with its file and line (or variable, or flag).
    """
    variables = os.environ if environment is None else environment
    document = read_document(explicit, variables)
    return _Loading(document, variables, overrides or {}).settings()


class _Loading:
    """One reading of all that is configured; faults are collected and raised at the end."""

    def __init__(self, document: Document, environment: Mapping[str, str], overrides: Mapping[str, object]) -> None:
        self._document = document
        self._environment = environment
        self._faults: list[Fault] = []
        self._given = {given.field: given for given in _default_scalars(environment)}
        for found in (*self._in_document(), *from_environment(environment), *_flags(overrides)):
            if isinstance(found, Fault):
                self._faults.append(found)
            else:
                self._given[found.field] = found

    def settings(self) -> Settings:
        scalars = self._scalars()
        entries = Entries(self._document)
        sources = entries.sources(exporter_listen=scalars.exporter_listen, web_listen=scalars.web_listen)
        tiers, summaries, rules = entries.tiers(), entries.summaries(), entries.rules()
        self._faults += entries.faults
        self._faults += check_scalars(scalars, self._given)
        self._faults += check_filters(self._document)
        self._faults += check_tiers(tiers, scalars, self._given, is_complete=entries.tiers_are_valid)
        if entries.tiers_are_valid:
            self._faults += check_summaries(summaries, [entry.value for entry in tiers])
        databases = self._databases()
        if self._faults:
            raise ConfigurationError(*sorted(self._faults, key=lambda fault: (fault.file, fault.line or 0)))
        settings = scalars.model_copy(
            update={
                "sources": tuple(resolved(entry.value, self._document.folder) for entry in sources),
                "tiers": tuple(sorted((entry.value for entry in tiers), key=lambda tier: tier.step)),
                "summaries": tuple(entry.value for entry in summaries),
                "rules": tuple(entry.value for entry in rules),
                "databases": databases,
                "file": None if self._document.path is None else self._document.path.absolute(),
            }
        )
        _remember(settings)
        return settings

    def _databases(self) -> tuple[NamedDatabase, ...]:
        found = list(read_databases(self._document, self._environment))
        self._faults += (fault for fault in found if isinstance(fault, Fault))
        return tuple(database for database in found if isinstance(database, NamedDatabase))

    def _scalars(self) -> Settings:
        """The settings without their lists; what is wrong has its default instead, so that the rest is checked too."""
        values = {field: _as_typed(field, given.value) for field, given in self._given.items()}
        try:
            return Settings.model_validate(values, strict=True)
        except ValidationError as error:
            wrong = {str(path[0]): message for path, message in explain(error, _unknown_setting, is_secret=is_secret)}
        self._faults += (self._given_or_missing(field).fault(message) for field, message in wrong.items())
        right = {field: value for field, value in values.items() if field not in wrong}
        return Settings.model_validate({"data_dir": Path(), "node": "node"} | right, strict=True)

    def _given_or_missing(self, field: str) -> Given:
        return self._given.get(field, Given(field, None, PREFIX + field.upper()))

    def _in_document(self) -> Iterator[Given | Fault]:
        document = self._document
        for key, value in document.table.items():
            secret = key.removesuffix(FILE_SUFFIX)
            given = Given(key, value, str(document.path), document.lines.get((key,)))
            if key in SCALARS:
                yield _from_folder(given, document.folder)
            elif key != secret and secret in SCALARS and is_secret(secret):
                if not self._is_in_environment(secret):
                    yield self._secret(given, secret)
            elif key not in _SECTIONS:
                yield given.fault(_unknown_setting((key,)))

    def _is_in_environment(self, field: str) -> bool:
        """Whether a variable beats what the document says: a service may not even be able to read root's own file."""
        variable = PREFIX + field.upper()
        return any(self._environment.get(name) for name in (variable, variable + FILE_SUFFIX.upper()))

    def _secret(self, given: Given, field: str) -> Given | Fault:
        if field in self._document.table:
            return given.fault(f"{field} is given as well; keep one of the two")
        read = read_secret(given, self._document.folder)
        return read if isinstance(read, Fault) else Given(field, read.value, read.place, read.line)


def _remember(settings: Settings) -> None:
    """Let no line of this process show a password of its URLs, whoever writes it."""
    scalars = (getattr(settings, field) for field in SCALARS if is_secret(field))
    for secret in (*scalars, *(database.url for database in settings.databases)):
        if secret is not None:
            remember_url(secret.get_secret_value())


def _unknown_setting(path: KeyPath) -> str:
    secret_files = (field + FILE_SUFFIX for field in SCALARS if is_secret(field))
    return no_such_key(str(path[-1]), (*SCALARS, *_SECTIONS, *secret_files))


def _default_scalars(environment: Mapping[str, str]) -> Iterator[Given]:
    yield Given("node", defaults.node(), "defaults")
    data_dir = defaults.data_dir(environment)
    if data_dir is not None:  # a user without a home directory has to name one
        yield Given("data_dir", data_dir, "defaults")


def _flags(overrides: Mapping[str, object]) -> Iterator[Given]:
    for field, value in overrides.items():
        if value is not None:
            yield Given(field, value, "--" + field.replace("_", "-"))


def _from_folder(given: Given, folder: Path) -> Given:
    """A directory written in the file counts from the file's folder."""
    if given.field == "data_dir" and isinstance(given.value, str):
        return replace(given, value=folder / Path(given.value).expanduser())
    return given


def _as_typed(field: str, value: object) -> Any:  # noqa: ANN401 - what was given, to be validated
    if field == "data_dir" and isinstance(value, str | Path):
        return Path(value).expanduser().absolute()
    return value

"""The databases that summaries in SQL may ask: `[databases.<name>]` of the file, or a variable for each."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, TypeAdapter, ValidationError

from aggregator.config.environment import DATABASE_VARIABLE, FILE_SUFFIX, Given, read_secret
from aggregator.config.faults import no_such_key
from aggregator.config.fields import POSTGRESQL_SCHEMES, DatabaseName
from aggregator.config.model import NamedDatabase
from aggregator.errors import Fault

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aggregator.config.document import Document

SECTION = "databases"
_KEYS = ("url", "url_file")
_NAME: TypeAdapter[str] = TypeAdapter(DatabaseName)


def read_databases(document: Document, environment: Mapping[str, str]) -> Iterator[NamedDatabase | Fault]:
    """The databases of the file and of the environment, which beats it, by name; and what is wrong with them."""
    given: dict[str, Given] = {}
    for name, found in (*_in_document(document), *_in_environment(environment)):
        if isinstance(found, Fault):
            yield found
        else:
            given[name] = found
    for name, found in sorted(given.items()):
        url = found.value
        if not isinstance(url, str) or not url.startswith(tuple(f"{scheme}://" for scheme in POSTGRESQL_SCHEMES)):
            yield found.fault("is no URL that can be used; write one that begins with postgresql://")
        else:
            yield NamedDatabase(name=name, url=SecretStr(url))


def _in_document(document: Document) -> Iterator[tuple[str, Given | Fault]]:
    written = document.table.get(SECTION, {})
    if not isinstance(written, dict):
        yield "", document.fault((SECTION,), SECTION, "is a table; write [databases.shop] with its url below")
        return
    for name, entry in written.items():
        yield name, _one(document, name, entry)


def _one(document: Document, name: str, entry: Any) -> Given | Fault:  # noqa: ANN401 - whatever the file has
    place = (SECTION, name)
    title = f"[{SECTION}.{name}]"
    try:
        _NAME.validate_python(name, strict=True)
    except ValidationError:
        message = "a database's name has small letters, digits and _, and begins with a letter"
        return document.fault(place, title, message)
    if not isinstance(entry, dict):
        return document.fault(place, title, 'is a table; write url = "postgresql://..." below it')
    unknown = next((key for key in entry if key not in _KEYS), None)
    if unknown is not None:
        return document.fault((*place, unknown), f"{title}: {unknown}", no_such_key(unknown, _KEYS))
    if len(entry) != 1:
        return document.fault(place, title, "needs its url or its url_file, and not both; write one of the two")
    ((key, value),) = entry.items()
    given = Given(f"{title}: {key}", value, str(document.path), document.lines.get((*place, key)))
    return read_secret(given, document.folder) if key.endswith(FILE_SUFFIX) else given


def _in_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, Given | Fault]]:
    for variable, value in sorted(environment.items()):
        found = DATABASE_VARIABLE.fullmatch(variable)
        if found is None or not value:
            continue
        given = Given(f"{SECTION}.{found['name'].lower()}", value, variable)
        if not found["file"]:
            yield found["name"].lower(), given
        elif environment.get(variable.removesuffix("_FILE")):
            yield "", given.fault(f"{variable.removesuffix('_FILE')} is set as well; keep one of the two")
        else:
            yield found["name"].lower(), read_secret(given, Path())

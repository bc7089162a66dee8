"""Sources, tiers, summaries and rules as they are written, checked one by one so that every fault is found at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from aggregator.config import defaults
from aggregator.config.access_model import BasicAuth, TlsSettings, refused_inline, with_absolute_files
from aggregator.config.faults import Keys, explain, no_such_key
from aggregator.config.model import Rule, Summary, Tier
from aggregator.config.source_model import CommandSource, HostSource, Limits, PrometheusSource, SelftestSource, Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from aggregator.config.document import Document
    from aggregator.config.lines import Path as KeyPath
    from aggregator.errors import Fault

Checked = TypeVar("Checked", bound=BaseModel)

_SOURCE_MODELS: Mapping[str, type[BaseModel]] = {
    "prometheus": PrometheusSource,
    "host": HostSource,
    "command": CommandSource,
    "selftest": SelftestSource,
}


@dataclass(frozen=True)
class Entry(Generic[Checked]):
    """One valid entry, and its place in the file (None: a default)."""

    value: Checked
    key: KeyPath | None
    document: Document

    def fault(self, field: str, message: str) -> Fault:
        """A fault of one field of the entry."""
        title = f'[[{self.key[0] if self.key else "tiers"}]] "{getattr(self.value, "name", "")}"'
        path = () if self.key is None else (*self.key, field)
        return self.document.fault(path, f"{title}: {field}", message)


class Entries:
    """The lists of one document; `faults` grows while they are read."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self.faults: list[Fault] = []
        self.tiers_are_valid = False

    def sources(self, *, exporter_listen: str, web_listen: str) -> list[Entry[Any]]:
        """The sources of the file, or the default ones where it has none."""
        written = self._written("sources")
        if written is None:
            written = [
                (None, dict(s)) for s in defaults.sources(exporter_listen=exporter_listen, web_listen=web_listen)
            ]
        adapter: TypeAdapter[Any] = TypeAdapter(Source)
        return [entry for key, raw in written for entry in self._one(key, raw, adapter.validate_python, _source_keys)]

    def tiers(self) -> list[Entry[Tier]]:
        """The default tiers, overridden key by key by the file's of the same names, and the file's other tiers."""
        faults_before = len(self.faults)
        merged: dict[str, tuple[KeyPath | None, Any]] = {str(t["name"]): (None, dict(t)) for t in defaults.TIERS}
        for key, raw in self._written("tiers") or []:
            name = raw.get("name") if isinstance(raw, dict) else None
            _, default = merged.get(str(name), (None, {}))
            merged[str(name if isinstance(name, str) else key)] = (key, default | raw if isinstance(raw, dict) else raw)
        validate = TypeAdapter(Tier).validate_python
        entries = [entry for key, raw in merged.values() for entry in self._one(key, raw, validate, _keys_of(Tier))]
        self.tiers_are_valid = len(self.faults) == faults_before
        return entries

    def summaries(self) -> list[Entry[Summary]]:
        """The summaries of the file, or the default ones where it has none."""
        written = self._written("summaries")
        if written is None:
            written = [(None, dict(summary)) for summary in defaults.SUMMARIES]
        validate = TypeAdapter(Summary).validate_python
        return [entry for key, raw in written for entry in self._one(key, raw, validate, _keys_of(Summary))]

    def rules(self) -> list[Entry[Rule]]:
        """The rules of the file; there are no default ones."""
        validate = TypeAdapter(Rule).validate_python
        written = self._written("rules") or []
        return [entry for key, raw in written for entry in self._one(key, raw, validate, _keys_of(Rule))]

    def _written(self, section: str) -> list[tuple[KeyPath | None, Any]] | None:
        """What the file has in `[[section]]`; None where it has nothing."""
        raw = self._document.table.get(section)
        if raw is None:
            return None
        if not isinstance(raw, list):
            message = f"is a list of tables; begin each entry with [[{section}]]"
            self.faults.append(self._document.fault((section,), section, message))
            return []
        entries: list[tuple[KeyPath | None, Any]] = [((section, index), entry) for index, entry in enumerate(raw)]
        self.faults += self._duplicates(section, raw)
        return entries

    def _duplicates(self, section: str, raw: Sequence[object]) -> Iterator[Fault]:
        first: dict[str, int] = {}
        for index, entry in enumerate(raw):
            name = entry.get("name") if isinstance(entry, dict) else None
            if isinstance(name, str) and first.setdefault(name, index) != index:
                line = self._document.lines.get((section, first[name], "name"))
                message = f"line {line} has the same name; give each of the [[{section}]] its own"
                yield self._document.fault((section, index, "name"), f'[[{section}]] "{name}": name', message)

    def _one(
        self,
        key: KeyPath | None,
        raw: Any,  # noqa: ANN401 - whatever the file has
        validate: Callable[..., Checked],
        keys: Callable[[object], Keys],
    ) -> Iterator[Entry[Checked]]:
        """The entry if it is valid; its faults are kept if not."""
        try:
            yield Entry(validate(_tuples(raw), strict=True), key, self._document)
        except ValidationError as error:
            for path, message in explain(error, keys(raw), is_secret=_is_secret):
                field = dotted(path)
                title = _title(key, raw) + (f": {field}" if field else "")
                self.faults.append(self._document.fault((*(key or ()), *path), title, message))


def dotted(path: KeyPath) -> str:
    """A path as people write it, such as `limits.samples` or `keep[0]`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _is_secret(key: str) -> bool:
    return key in ("environment", "basic_auth", "bearer_token", "bearer_token_file")


_NESTED: Mapping[str, type[BaseModel]] = {"limits": Limits, "basic_auth": BasicAuth, "tls": TlsSettings}


def _source_keys(raw: object) -> Keys:
    """What is said of an unknown key of a source: what was meant, or which kind has it."""
    kind = str(raw.get("kind")) if isinstance(raw, dict) else ""

    def unknown(path: KeyPath) -> str:
        key = str(path[-1])
        refused = refused_inline(key)
        if refused is not None and path[0] in (key, *_NESTED):
            return refused
        nested = _NESTED.get(str(path[0]))
        if nested is not None and len(path) > 1:
            return no_such_key(key, nested.model_fields)
        others = [other for other, model in _SOURCE_MODELS.items() if key in model.model_fields]
        if others:
            return f"kind {kind} has no such key, only {' and '.join(others)}; leave it out"
        return no_such_key(key, _SOURCE_MODELS[kind].model_fields)

    return unknown


def _keys_of(model: type[BaseModel]) -> Callable[[object], Keys]:
    return lambda _: lambda path: no_such_key(str(path[-1]), model.model_fields)


def _title(key: KeyPath | None, raw: object) -> str:
    section, index = key or ("tiers", 0)
    name = raw.get("name") if isinstance(raw, dict) else None
    return f"[[{section}]] " + (f'"{name}"' if isinstance(name, str) else f"number {int(index) + 1}")


def _tuples(raw: Any) -> Any:  # noqa: ANN401 - whatever the file has
    """The same with lists as tuples, which is what strict validation takes for a frozen list."""
    if isinstance(raw, list):
        return tuple(_tuples(element) for element in raw)
    if isinstance(raw, dict):
        return {key: _tuples(value) for key, value in raw.items()}
    return raw


def resolved(source: Source, folder: Path) -> Source:
    """The source with the files that it names counted from the configuration file's folder."""
    if not isinstance(source, PrometheusSource):
        return source

    def absolute(path: str) -> str:
        return str((folder / path).absolute())

    changes: dict[str, object] = {}
    if source.file_sd:
        changes["file_sd"] = tuple(absolute(pattern) for pattern in source.file_sd)
    if source.bearer_token_file is not None:
        changes["bearer_token_file"] = absolute(source.bearer_token_file)
    for key in ("basic_auth", "tls"):
        nested = getattr(source, key)
        if nested is not None:
            given = with_absolute_files(nested.model_dump(exclude_unset=True), absolute)
            changes[key] = type(nested).model_validate(given)
    return source.model_copy(update=changes) if changes else source

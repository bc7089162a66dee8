"""Documents say what is true of the code: settings and defaults, links and headings."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from aggregator import telemetry
from aggregator.config import defaults
from aggregator.config.duration import format_duration
from aggregator.config.environment import SCALARS
from aggregator.config.model import Rule, Settings, Summary, Tier
from aggregator.config.source_model import CommandSource, HostSource, Limits, PrometheusSource, SelftestSource

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
DOCUMENTS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
CODE_FOLDERS = ("aggregator", "migrations", "benchmarks", "deploy")
CODE_SUFFIXES = {".py", ".toml", ".yaml", ".yml", ".service"}
CODE = [
    *sorted(path for name in CODE_FOLDERS for path in (ROOT / name).rglob("*") if path.suffix in CODE_SUFFIXES),
    ROOT / "celeryconfig.py",
    ROOT / "pyproject.toml",
]
#: Settings whose default depends on the machine, or which are described in words.
IN_WORDS = {"data_dir", "node", "limits", "keep", "nodes"}
LINK = re.compile(r"\]\((?!\w+://)([^)#\s]*)(?:#([^)\s]+))?\)")
#: How code refers to a document: `docs/x.md#heading`, `docs/x.md, "Heading"`, `docs/adr/0001`.
REFERENCE = re.compile(r'(?<![/\w])docs/([\w/.-]*\w)(?:#([\w-]+)|,\s+"([^"]+)")?')


def _headings(document: Path) -> set[str]:
    """The anchors that a document's headings give."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _rows(text: str, *, columns: int) -> list[list[str]]:
    """The rows of a text's tables that have so many columns and begin with a setting."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if len(row) == columns and row[0].startswith("`")]


def _entries(title: str) -> dict[str, str]:
    """The settings, with their defaults, in the table that follows the line that begins with `title`."""
    after = re.split(rf"^{re.escape(title)}", CONFIGURATION, maxsplit=1, flags=re.MULTILINE)[1]
    part = re.split(r"^(?:`kind = |Limits, |## )", after, maxsplit=1, flags=re.MULTILINE)[0]
    return {row[0].strip("`"): row[1] for row in _rows(part, columns=3)}


def _shown(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None or default in ((), {}):
        return "none"
    if isinstance(default, timedelta):
        return f"`{format_duration(default)}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_scalar_setting_is_documented_with_its_variable_and_default() -> None:
    documented = {row[0].strip("`"): row for row in _rows(CONFIGURATION, columns=5)}
    assert list(documented) == [name for name in Settings.model_fields if name in SCALARS]
    for name, (_, variable, default, owner, _) in documented.items():
        assert variable == f"`AGGREGATOR_{name.upper()}`"
        assert owner in {"node", "installation"}
        if name not in IN_WORDS:
            assert default == _shown(Settings.model_fields[name]), name


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ('`kind = "prometheus"`', PrometheusSource),
        ('`kind = "host"`', HostSource),
        ('`kind = "command"`', CommandSource),
        ('`kind = "selftest"`', SelftestSource),
        ("Limits, one table", Limits),
        ("## Tiers", Tier),
        ("## Rules", Rule),
        ("## Summaries", Summary),
    ],
)
def test_every_setting_of_an_entry_is_documented_with_its_default(title: str, model: type[BaseModel]) -> None:
    common = _entries("## Sources") if "kind" in model.model_fields else {}
    documented = common | _entries(title)
    assert set(documented) == set(model.model_fields)
    for name, shown in documented.items():
        if name not in IN_WORDS | {"kind"}:
            assert shown == _shown(model.model_fields[name]), name


@pytest.mark.parametrize("name", ["run_commands", "read_files", "remote_control", "log_level", "log_format"])
def test_every_choice_of_a_setting_is_documented(name: str) -> None:
    row = next(row for row in _rows(CONFIGURATION, columns=5) if row[0] == f"`{name}`")
    assert {f"`{choice}`" for choice in get_args(Settings.model_fields[name].annotation)} <= set(
        re.findall(r"`[^`]+`", " ".join(row))
    )


def test_the_default_tiers_are_documented() -> None:
    for tier in defaults.TIERS:
        amount, unit = re.fullmatch(r"(\d+)(\w)", str(tier["retention"])).groups()  # type: ignore[union-attr] # declared so
        assert f"`{tier['name']}` for {amount} {unit}" in CONFIGURATION


def _broken(base: Path, path: str, anchor: str) -> str | None:
    """What is wrong with a link, or None."""
    target = (base / path).resolve()
    if not target.exists():
        return f"{path} does not exist"
    if anchor and anchor not in _headings(target):
        return f"{path} has no heading #{anchor}"
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_document_resolves(document: Path) -> None:
    links = LINK.findall(re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL))
    faults = [_broken(document.parent, path or document.name, anchor) for path, anchor in links]
    assert [fault for fault in faults if fault] == []


def _reference_faults(path: Path) -> list[str]:
    faults: list[str | None] = []
    # A reference may be wrapped over two comment lines.
    text = re.sub(r"\n\s*(?:#:?)?\s*", " ", path.read_text())
    for document, anchor, title in REFERENCE.findall(text):
        if not document.endswith(".md"):
            found = list((ROOT / "docs").glob(f"{document}*")) if document.startswith("adr/") else [ROOT]
            faults += [] if found else [f"docs/{document} does not exist"]
        else:
            slug = anchor or title.lower().replace(" ", "-")
            faults.append(_broken(ROOT / "docs", document, slug))
    return [fault for fault in faults if fault]


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_document_that_code_refers_to_has_that_heading(path: Path) -> None:
    assert _reference_faults(path) == []


def test_every_metric_that_a_document_names_is_exported() -> None:
    code = "".join(
        path.read_text() for path in [*(ROOT / "aggregator" / "serving").glob("*.py"), Path(telemetry.__file__)]
    )
    for document in DOCUMENTS:
        for name in re.findall(r"`aggregator_(\w+)`", document.read_text()):
            assert f'"{name.removesuffix("_total")}' in code, f"{document.name}: aggregator_{name}"


def test_decisions_are_numbered_without_a_gap() -> None:
    numbers = [int(path.name[:4]) for path in sorted((ROOT / "docs" / "adr").glob("*.md"))]
    assert numbers == list(range(1, len(numbers) + 1))
    for path in (ROOT / "docs" / "adr").glob("*.md"):
        titles = re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE)
        assert titles == ["Context", "Decision", "Consequences", "Measured"]

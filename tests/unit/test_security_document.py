"""docs/security.md names, for each threat, tests that are really there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "security.md").read_text()
DEFINED = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
}
THREATS = (
    "Broker writes", "Control commands", "SSRF and redirects", "Command injection", "Runaway commands", "SQL sources",
    "Bombs and slow bodies", "Malicious exposition", "Label impersonation", "Floods of series", "Secrets",
    "TLS", "Exposed endpoints", "Reader escalation", "Cache poisoning", "Log injection", "Dependencies",
)  # fmt: skip


def _rows() -> dict[str, list[str]]:
    """The threat table: by threat, its defence and its tests."""
    part = DOCUMENT.split("## Threats", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows[2:]}


def test_every_test_that_the_document_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))
    assert named - DEFINED == set()


def test_every_threat_has_a_defence_and_a_test_that_holds_it() -> None:
    rows = _rows()
    assert tuple(rows) == THREATS
    for threat, (defence, tests) in rows.items():
        assert len(defence) > 40, threat
        assert re.findall(r"`(test_\w+)`", tests), threat

"""Whether the database's schema fits this version of the code, told without loading alembic."""

from __future__ import annotations

import re

from sqlalchemy import Connection, text

from aggregator.bundled import bundled

_ASSIGNED = re.compile(r'^(revision|down_revision) = "([^"]+)"$', re.MULTILINE)
_CURRENT = text("SELECT version_num FROM aggregator.alembic_version")
_HAS_VERSION = text("SELECT to_regclass('aggregator.alembic_version') IS NOT NULL")


def packaged_head() -> str:
    """The revision that this version of the code needs: the one that no other migration goes on from."""
    found = [dict(_ASSIGNED.findall(path.read_text())) for path in bundled("migrations").glob("versions/*.py")]
    continued = {names.get("down_revision") for names in found}
    head: str
    (head,) = (names["revision"] for names in found if names["revision"] not in continued)
    return head


def schema_fault(connection: Connection) -> str | None:
    """Why the database cannot be used by this version of the code; None where its schema is at head."""
    head = packaged_head()
    has_version = connection.execute(_HAS_VERSION).scalar_one()
    current = connection.execute(_CURRENT).scalar_one_or_none() if has_version else None
    if current == head:
        return None
    return f"the schema is at {current or 'nothing'} and this version needs {head}; run `aggregator db migrate`"

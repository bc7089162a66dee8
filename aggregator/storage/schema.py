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


def is_of_later_version(connection: Connection) -> bool:
    """Whether a later version of the code has migrated the database, which this one may go on to use.

    Views, functions and what is published are that version's then: ours would take from its readers what they know.
    Revisions are dates with a number, so that a later one is greater.
    """
    current = _current(connection)
    return current is not None and current > packaged_head()


def schema_fault(connection: Connection) -> str | None:
    """Why the database cannot be used by this version of the code; None where its schema is at head or later."""
    head, current = packaged_head(), _current(connection)
    if current is not None and current >= head:
        return None
    return f"the schema is at {current or 'nothing'} and this version needs {head}; run `aggregator db migrate`"


def _current(connection: Connection) -> str | None:
    """The revision that the database has; None where the schema was never made."""
    has_version = connection.execute(_HAS_VERSION).scalar_one()
    current: str | None = connection.execute(_CURRENT).scalar_one_or_none() if has_version else None
    return current

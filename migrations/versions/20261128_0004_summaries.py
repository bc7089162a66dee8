"""Summaries that are asked for beyond their slots, and whose columns keep their order."""

from __future__ import annotations

from alembic import op

revision = "20261128_0004"
down_revision = "20261128_0003"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE aggregator.summaries ADD COLUMN asked_at TIMESTAMP WITH TIME ZONE;

ALTER TABLE aggregator.summaries ALTER COLUMN value TYPE JSON USING value::text::json;
"""


def upgrade() -> None:
    """JSON instead of JSONB, which sorts the keys; JSONB is still taken and given where the version before writes."""
    for statement in CHANGES.split(";"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """There is no way back to less: restore a backup."""
    raise NotImplementedError("restore a backup that was made before")

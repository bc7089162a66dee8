"""Jobs whose processes were lost, and which of them are set aside for it."""

from __future__ import annotations

from alembic import op

revision = "20261129_0006"
down_revision = "20261129_0005"
branch_labels = None
depends_on = None

CHANGES = """
CREATE TABLE aggregator.job_losses (
    task TEXT NOT NULL,
    subject TEXT NOT NULL,
    losses INTEGER NOT NULL,
    reason TEXT NOT NULL,
    first_lost_at TIMESTAMP WITH TIME ZONE NOT NULL,
    last_lost_at TIMESTAMP WITH TIME ZONE NOT NULL,
    quarantined_at TIMESTAMP WITH TIME ZONE,
    retry_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT job_losses_pkey PRIMARY KEY (task, subject)
)
"""


def upgrade() -> None:
    """One more table: the version before neither reads nor misses it."""
    op.execute(CHANGES)


def downgrade() -> None:
    """There is no way back to less: restore a backup."""
    raise NotImplementedError("restore a backup that was made before")

"""Sparse frames, sketches, calendar months, and what backfill and verification remember; arrays without statistics."""

from __future__ import annotations

from alembic import op

revision = "20261123_0002"
down_revision = "20261123_0001"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE aggregator.series ADD COLUMN has_sketch BOOLEAN DEFAULT false NOT NULL;

CREATE INDEX series_sketched_idx ON aggregator.series (block_id) WHERE has_sketch;

ALTER TABLE aggregator.sample_frame ADD COLUMN places INTEGER[];

ALTER TABLE aggregator.tiers ADD COLUMN step_months SMALLINT DEFAULT 0 NOT NULL;

ALTER TABLE aggregator.tiers ADD COLUMN verify_mismatches BIGINT DEFAULT 0 NOT NULL;

ALTER TABLE aggregator.tiers ADD COLUMN complete_since TIMESTAMP WITH TIME ZONE;

CREATE TABLE aggregator.sketch (
    bucket TIMESTAMP WITH TIME ZONE NOT NULL,
    block_id INTEGER NOT NULL,
    tier_id SMALLINT NOT NULL,
    positions SMALLINT[] NOT NULL,
    keys INTEGER[] NOT NULL,
    counts INTEGER[] NOT NULL,
    CONSTRAINT sketch_pkey PRIMARY KEY (tier_id, block_id, bucket)
)
 PARTITION BY LIST (tier_id);

DROP INDEX aggregator.dirty_due_idx;

CREATE INDEX dirty_due_idx ON aggregator.dirty (backfill, due);

CREATE TABLE aggregator.partition_writes (
    table_name TEXT NOT NULL,
    tier_id SMALLINT DEFAULT 0 NOT NULL,
    start TIMESTAMP WITH TIME ZONE NOT NULL,
    last_written TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT partition_writes_pkey PRIMARY KEY (table_name, tier_id, start)
);

ALTER TABLE aggregator.runs
    ADD COLUMN first_bucket TIMESTAMP WITH TIME ZONE,
    ADD COLUMN last_bucket TIMESTAMP WITH TIME ZONE,
    ADD COLUMN backfill BOOLEAN DEFAULT false NOT NULL;

CREATE INDEX runs_subject_started_at_idx ON aggregator.runs (subject, started_at);

CREATE TABLE aggregator.held_partitions (
    name TEXT NOT NULL,
    table_name TEXT NOT NULL,
    cause TEXT NOT NULL,
    reason TEXT NOT NULL,
    held_since TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT held_partitions_pkey PRIMARY KEY (name)
);

CREATE TABLE aggregator.recomputations (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    selector TEXT NOT NULL,
    since TIMESTAMP WITH TIME ZONE NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    marked_down_to TIMESTAMP WITH TIME ZONE NOT NULL,
    buckets_marked BIGINT DEFAULT 0 NOT NULL,
    kept JSONB DEFAULT '{}'::jsonb NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT recomputations_pkey PRIMARY KEY (id)
);
"""

# What ANALYZE would gather about arrays of numbers costs more than all writing, and no query is planned by it.
NO_STATISTICS_OF_ARRAYS = """
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT a.attrelid::regclass AS relation, a.attname
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'aggregator'::regnamespace AND c.relkind = 'r' AND c.relispartition
            AND a.attnum > 0 AND NOT a.attisdropped AND a.atttypid IN ('float8[]'::regtype, 'int4[]'::regtype)
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', found.relation, found.attname);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    """From frames alone to what proves their numbers."""
    for statement in CHANGES.split(";"):
        if statement.strip():
            op.execute(statement)
    op.execute(NO_STATISTICS_OF_ARRAYS)


def downgrade() -> None:
    """There is no way back to less: restore a backup."""
    raise NotImplementedError("restore a backup that was made before")

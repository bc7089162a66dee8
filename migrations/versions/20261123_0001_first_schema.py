"""The first schema: everything that frames, the dirty ledger and the four stages need."""

from __future__ import annotations

from alembic import op

revision = "20261123_0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE aggregator.installation (
    is_only BOOLEAN DEFAULT true NOT NULL,
    namespace TEXT NOT NULL,
    lateness_seconds DOUBLE PRECISION NOT NULL,
    lookback_seconds DOUBLE PRECISION NOT NULL,
    sample_retention_seconds DOUBLE PRECISION NOT NULL,
    config_hash TEXT NOT NULL,
    published_at TIMESTAMP WITH TIME ZONE NOT NULL,
    published_by TEXT NOT NULL,
    CONSTRAINT installation_pkey PRIMARY KEY (is_only),
    CONSTRAINT installation_one_row_check CHECK (is_only)
);

CREATE TABLE aggregator.nodes (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    last_seen TIMESTAMP WITH TIME ZONE NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    config_hash TEXT NOT NULL,
    version TEXT NOT NULL,
    exporter_url TEXT,
    CONSTRAINT nodes_pkey PRIMARY KEY (id),
    CONSTRAINT nodes_name_key UNIQUE (name)
);

CREATE TABLE aggregator.sources (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    definition JSONB NOT NULL,
    interval_seconds DOUBLE PRECISION NOT NULL,
    offset_seconds DOUBLE PRECISION NOT NULL,
    active BOOLEAN NOT NULL,
    last_woken_slot TIMESTAMP WITH TIME ZONE,
    published_at TIMESTAMP WITH TIME ZONE NOT NULL,
    published_by TEXT NOT NULL,
    CONSTRAINT sources_pkey PRIMARY KEY (id),
    CONSTRAINT sources_name_key UNIQUE (name)
);

CREATE TABLE aggregator.sample_frame (
    target_id INTEGER NOT NULL,
    map_id INTEGER NOT NULL,
    at TIMESTAMP WITH TIME ZONE NOT NULL,
    received_at TIMESTAMP WITH TIME ZONE NOT NULL,
    values DOUBLE PRECISION[] NOT NULL,
    CONSTRAINT sample_frame_pkey PRIMARY KEY (target_id, at)
)
 PARTITION BY RANGE (at);

CREATE TABLE aggregator.tiers (
    id SMALLINT GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    step_seconds DOUBLE PRECISION NOT NULL,
    retention_seconds DOUBLE PRECISION NOT NULL,
    timezone TEXT NOT NULL,
    parent_id SMALLINT,
    active BOOLEAN NOT NULL,
    CONSTRAINT tiers_pkey PRIMARY KEY (id),
    CONSTRAINT tiers_name_key UNIQUE (name),
    CONSTRAINT tiers_parent_id_fkey FOREIGN KEY(parent_id) REFERENCES aggregator.tiers (id)
);

CREATE TABLE aggregator.rollup (
    bucket TIMESTAMP WITH TIME ZONE NOT NULL,
    block_id INTEGER NOT NULL,
    slots_due INTEGER NOT NULL,
    tier_id SMALLINT NOT NULL,
    count INTEGER[] NOT NULL,
    last_at INTEGER[],
    sum DOUBLE PRECISION[],
    min DOUBLE PRECISION[],
    max DOUBLE PRECISION[],
    first DOUBLE PRECISION[],
    last DOUBLE PRECISION[],
    m2 DOUBLE PRECISION[],
    increase DOUBLE PRECISION[],
    covered DOUBLE PRECISION[],
    CONSTRAINT rollup_pkey PRIMARY KEY (tier_id, block_id, bucket)
)
 PARTITION BY LIST (tier_id);

CREATE TABLE aggregator.dirty (
    tier_id SMALLINT NOT NULL,
    shard_id INTEGER NOT NULL,
    target_id INTEGER,
    bucket TIMESTAMP WITH TIME ZONE NOT NULL,
    due TIMESTAMP WITH TIME ZONE NOT NULL,
    marked TIMESTAMP WITH TIME ZONE NOT NULL,
    backfill BOOLEAN DEFAULT false NOT NULL
);

CREATE INDEX dirty_shard_id_bucket_idx ON aggregator.dirty (shard_id, bucket);

CREATE INDEX dirty_due_idx ON aggregator.dirty (due);

CREATE TABLE aggregator.collections (
    shard_id INTEGER NOT NULL,
    slot TIMESTAMP WITH TIME ZONE NOT NULL,
    token UUID NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE NOT NULL,
    node TEXT NOT NULL,
    by_hand BOOLEAN DEFAULT false NOT NULL,
    claims SMALLINT DEFAULT 1 NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    target_ids INTEGER[] NOT NULL,
    outcome SMALLINT[] NOT NULL,
    duration_seconds REAL[] NOT NULL,
    samples INTEGER[] NOT NULL,
    CONSTRAINT collections_pkey PRIMARY KEY (shard_id, slot)
)
 PARTITION BY RANGE (slot);

CREATE TABLE aggregator.runs (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    stage TEXT NOT NULL,
    subject TEXT NOT NULL,
    slot TIMESTAMP WITH TIME ZONE,
    node TEXT NOT NULL,
    started_at TIMESTAMP WITH TIME ZONE NOT NULL,
    lease_until TIMESTAMP WITH TIME ZONE,
    finished_at TIMESTAMP WITH TIME ZONE,
    outcome TEXT,
    rows BIGINT,
    error TEXT,
    CONSTRAINT runs_pkey PRIMARY KEY (id)
);

CREATE INDEX runs_started_at_idx ON aggregator.runs (started_at);

CREATE UNIQUE INDEX runs_slot_key ON aggregator.runs (stage, subject, slot) WHERE slot IS NOT NULL;

CREATE TABLE aggregator.wakes (
    job TEXT NOT NULL,
    slot TIMESTAMP WITH TIME ZONE NOT NULL,
    woken_at TIMESTAMP WITH TIME ZONE NOT NULL,
    slots_missed BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT wakes_pkey PRIMARY KEY (job)
);

CREATE TABLE aggregator.summaries (
    name TEXT NOT NULL,
    definition JSONB NOT NULL,
    active BOOLEAN NOT NULL,
    refresh_seconds DOUBLE PRECISION NOT NULL,
    value JSONB,
    as_of TIMESTAMP WITH TIME ZONE,
    computed_at TIMESTAMP WITH TIME ZONE,
    tier TEXT,
    completeness DOUBLE PRECISION,
    is_final BOOLEAN,
    version BIGINT DEFAULT 0 NOT NULL,
    last_error TEXT,
    last_error_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT summaries_pkey PRIMARY KEY (name)
);

CREATE TABLE aggregator.retained (
    table_name TEXT NOT NULL,
    tier_id SMALLINT DEFAULT 0 NOT NULL,
    dropped_before TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT retained_pkey PRIMARY KEY (table_name, tier_id)
);

CREATE TABLE aggregator.shards (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    source_id INTEGER NOT NULL,
    node_id INTEGER,
    is_intake BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT shards_pkey PRIMARY KEY (id),
    CONSTRAINT shards_source_id_fkey FOREIGN KEY(source_id) REFERENCES aggregator.sources (id),
    CONSTRAINT shards_node_id_fkey FOREIGN KEY(node_id) REFERENCES aggregator.nodes (id)
);

CREATE INDEX shards_source_id_idx ON aggregator.shards (source_id);

CREATE UNIQUE INDEX shards_source_id_node_id_key ON aggregator.shards (source_id, node_id) WHERE node_id IS NOT NULL;

CREATE UNIQUE INDEX shards_intake_key ON aggregator.shards (source_id) WHERE is_intake;

CREATE TABLE aggregator.shard_slots (
    shard_id INTEGER NOT NULL,
    first_slot TIMESTAMP WITH TIME ZONE NOT NULL,
    last_slot TIMESTAMP WITH TIME ZONE NOT NULL,
    slots_missed BIGINT DEFAULT 0 NOT NULL,
    CONSTRAINT shard_slots_pkey PRIMARY KEY (shard_id),
    CONSTRAINT shard_slots_shard_id_fkey FOREIGN KEY(shard_id) REFERENCES aggregator.shards (id)
);

CREATE TABLE aggregator.targets (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    source_id INTEGER NOT NULL,
    shard_id INTEGER,
    node_id INTEGER,
    map_id INTEGER,
    weight INTEGER DEFAULT 0 NOT NULL,
    address TEXT NOT NULL,
    labels JSONB NOT NULL,
    active BOOLEAN NOT NULL,
    is_up BOOLEAN,
    state_since TIMESTAMP WITH TIME ZONE,
    last_error TEXT,
    last_error_at TIMESTAMP WITH TIME ZONE,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT targets_pkey PRIMARY KEY (id),
    CONSTRAINT targets_source_id_address_labels_key UNIQUE (source_id, address, labels),
    CONSTRAINT targets_source_id_fkey FOREIGN KEY(source_id) REFERENCES aggregator.sources (id),
    CONSTRAINT targets_shard_id_fkey FOREIGN KEY(shard_id) REFERENCES aggregator.shards (id),
    CONSTRAINT targets_node_id_fkey FOREIGN KEY(node_id) REFERENCES aggregator.nodes (id)
);

CREATE INDEX targets_shard_id_idx ON aggregator.targets (shard_id);

CREATE TABLE aggregator.blocks (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    shard_id INTEGER NOT NULL,
    kind SMALLINT NOT NULL,
    size SMALLINT NOT NULL,
    CONSTRAINT blocks_pkey PRIMARY KEY (id),
    CONSTRAINT blocks_size_check CHECK (size BETWEEN 0 AND 64),
    CONSTRAINT blocks_shard_id_fkey FOREIGN KEY(shard_id) REFERENCES aggregator.shards (id)
);

CREATE INDEX blocks_shard_id_kind_idx ON aggregator.blocks (shard_id, kind);

CREATE TABLE aggregator.series (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    target_id INTEGER NOT NULL,
    block_id INTEGER,
    position SMALLINT,
    kind SMALLINT NOT NULL,
    identity_hash BYTEA NOT NULL,
    metric TEXT NOT NULL,
    labels JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT series_pkey PRIMARY KEY (id),
    CONSTRAINT series_target_id_identity_hash_key UNIQUE (target_id, identity_hash),
    CONSTRAINT series_block_id_position_key UNIQUE (block_id, position),
    CONSTRAINT series_target_id_fkey FOREIGN KEY(target_id) REFERENCES aggregator.targets (id)
);

CREATE INDEX series_metric_idx ON aggregator.series (metric);

CREATE INDEX series_unplaced_idx ON aggregator.series (target_id) WHERE block_id IS NULL;

CREATE TABLE aggregator.frame_maps (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    target_id INTEGER NOT NULL,
    series_ids BIGINT[] NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT frame_maps_pkey PRIMARY KEY (id),
    CONSTRAINT frame_maps_target_id_fkey FOREIGN KEY(target_id) REFERENCES aggregator.targets (id)
);

CREATE INDEX frame_maps_target_id_idx ON aggregator.frame_maps (target_id);
"""

#: Why each storage setting is as it is: docs/pitfalls.md.
STORAGE = """
ALTER TABLE aggregator.sample_frame ALTER COLUMN "values" SET STORAGE EXTERNAL;
ALTER TABLE aggregator.dirty SET (
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.5
);
ALTER TABLE aggregator.nodes SET (fillfactor = 50);
ALTER TABLE aggregator.wakes SET (fillfactor = 50);
ALTER TABLE aggregator.shard_slots SET (fillfactor = 50);
ALTER TABLE aggregator.targets SET (fillfactor = 70);
"""


def upgrade() -> None:
    """Make all tables in the empty schema."""
    for statement in (TABLES + STORAGE).split(";"):
        if statement.strip():
            op.execute(statement)

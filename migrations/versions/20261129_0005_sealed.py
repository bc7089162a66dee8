"""Sealed rows: rollups and samples of hours that have closed, packed, a row for each series and span."""

from __future__ import annotations

from alembic import op

revision = "20261129_0005"
down_revision = "20261128_0004"
branch_labels = None
depends_on = None

CHANGES = """
CREATE TABLE aggregator.sealed (
    start TIMESTAMP WITH TIME ZONE NOT NULL,
    block_id INTEGER NOT NULL,
    tier_id SMALLINT NOT NULL,
    position SMALLINT NOT NULL,
    clock SMALLINT NOT NULL,
    sum_base DOUBLE PRECISION,
    min_base DOUBLE PRECISION,
    max_base DOUBLE PRECISION,
    first_base DOUBLE PRECISION,
    last_base DOUBLE PRECISION,
    m2_base DOUBLE PRECISION,
    increase_base DOUBLE PRECISION,
    sum_divisor REAL,
    sum_unit REAL,
    min_divisor REAL,
    min_unit REAL,
    max_divisor REAL,
    max_unit REAL,
    first_divisor REAL,
    first_unit REAL,
    last_divisor REAL,
    last_unit REAL,
    m2_divisor REAL,
    m2_unit REAL,
    increase_divisor REAL,
    increase_unit REAL,
    sum_bytes BYTEA,
    sum_shorts SMALLINT[],
    sum_ints INTEGER[],
    sum_corrections BYTEA,
    sum_singles REAL[],
    sum_doubles DOUBLE PRECISION[],
    min_bytes BYTEA,
    min_shorts SMALLINT[],
    min_ints INTEGER[],
    min_corrections BYTEA,
    min_singles REAL[],
    min_doubles DOUBLE PRECISION[],
    max_bytes BYTEA,
    max_shorts SMALLINT[],
    max_ints INTEGER[],
    max_corrections BYTEA,
    max_singles REAL[],
    max_doubles DOUBLE PRECISION[],
    first_bytes BYTEA,
    first_shorts SMALLINT[],
    first_ints INTEGER[],
    first_corrections BYTEA,
    first_singles REAL[],
    first_doubles DOUBLE PRECISION[],
    last_bytes BYTEA,
    last_shorts SMALLINT[],
    last_ints INTEGER[],
    last_corrections BYTEA,
    last_singles REAL[],
    last_doubles DOUBLE PRECISION[],
    m2_bytes BYTEA,
    m2_shorts SMALLINT[],
    m2_ints INTEGER[],
    m2_corrections BYTEA,
    m2_singles REAL[],
    m2_doubles DOUBLE PRECISION[],
    increase_bytes BYTEA,
    increase_shorts SMALLINT[],
    increase_ints INTEGER[],
    increase_corrections BYTEA,
    increase_singles REAL[],
    increase_doubles DOUBLE PRECISION[],
    CONSTRAINT sealed_pkey PRIMARY KEY (tier_id, block_id, position, start)
)
 PARTITION BY LIST (tier_id)

;

CREATE TABLE aggregator.clock (
    start TIMESTAMP WITH TIME ZONE NOT NULL,
    step_ms BIGINT NOT NULL,
    block_id INTEGER NOT NULL,
    tier_id SMALLINT NOT NULL,
    clock SMALLINT NOT NULL,
    buckets SMALLINT NOT NULL,
    count_base DOUBLE PRECISION,
    last_at_base DOUBLE PRECISION,
    slots_due_base DOUBLE PRECISION,
    covered_base DOUBLE PRECISION,
    count_divisor REAL,
    last_at_divisor REAL,
    slots_due_divisor REAL,
    covered_divisor REAL,
    covered_unit REAL,
    count_bytes BYTEA,
    count_shorts SMALLINT[],
    count_ints INTEGER[],
    last_at_bytes BYTEA,
    last_at_shorts SMALLINT[],
    last_at_ints INTEGER[],
    slots_due_bytes BYTEA,
    slots_due_shorts SMALLINT[],
    slots_due_ints INTEGER[],
    covered_bytes BYTEA,
    covered_shorts SMALLINT[],
    covered_ints INTEGER[],
    covered_corrections BYTEA,
    covered_singles REAL[],
    covered_doubles DOUBLE PRECISION[],
    CONSTRAINT clock_pkey PRIMARY KEY (tier_id, block_id, start, clock)
)
 PARTITION BY LIST (tier_id)

;

CREATE TABLE aggregator.sample_sealed (
    start TIMESTAMP WITH TIME ZONE NOT NULL,
    target_id INTEGER NOT NULL,
    map_id INTEGER NOT NULL,
    place INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    value_base DOUBLE PRECISION,
    value_divisor REAL,
    value_unit REAL,
    value_bytes BYTEA,
    value_shorts SMALLINT[],
    value_ints INTEGER[],
    value_corrections BYTEA,
    value_singles REAL[],
    value_doubles DOUBLE PRECISION[],
    CONSTRAINT sample_sealed_pkey PRIMARY KEY (target_id, map_id, place, start)
)
 PARTITION BY RANGE (start)

;

CREATE TABLE aggregator.sample_clock (
    start TIMESTAMP WITH TIME ZONE NOT NULL,
    target_id INTEGER NOT NULL,
    map_id INTEGER NOT NULL,
    clock INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    at_base DOUBLE PRECISION,
    received_base DOUBLE PRECISION,
    at_divisor REAL,
    at_unit REAL,
    received_divisor REAL,
    received_unit REAL,
    at_bytes BYTEA,
    at_shorts SMALLINT[],
    at_ints INTEGER[],
    at_corrections BYTEA,
    at_singles REAL[],
    at_doubles DOUBLE PRECISION[],
    received_bytes BYTEA,
    received_shorts SMALLINT[],
    received_ints INTEGER[],
    received_corrections BYTEA,
    received_singles REAL[],
    received_doubles DOUBLE PRECISION[],
    CONSTRAINT sample_clock_pkey PRIMARY KEY (target_id, map_id, start, clock)
)
 PARTITION BY RANGE (start)

;

CREATE TABLE aggregator.sealings (
    tier_id SMALLINT NOT NULL,
    shard_id INTEGER NOT NULL,
    until TIMESTAMP WITH TIME ZONE NOT NULL,
    sealed_at TIMESTAMP WITH TIME ZONE NOT NULL,
    CONSTRAINT sealings_pkey PRIMARY KEY (tier_id, shard_id)
)

;
"""


def upgrade() -> None:
    """Nothing of what is stored changes: maintain seals it bit by bit."""
    for statement in CHANGES.split(";"):
        if statement.strip():
            op.execute(statement)


def downgrade() -> None:
    """There is no way back to less: restore a backup."""
    raise NotImplementedError("restore a backup that was made before")

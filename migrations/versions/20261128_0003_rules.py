"""Rules: what they are, which series go into which of their outputs, and slots of each output by itself."""

from __future__ import annotations

from alembic import op

revision = "20261128_0003"
down_revision = "20261123_0002"
branch_labels = None
depends_on = None

CHANGES = """
ALTER TABLE aggregator.rollup ADD COLUMN slots INTEGER[];

CREATE TABLE aggregator.rules (
    id INTEGER GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    definition JSONB NOT NULL,
    shard_id INTEGER NOT NULL,
    target_id INTEGER NOT NULL,
    active BOOLEAN NOT NULL,
    defined_since TIMESTAMP WITH TIME ZONE,
    CONSTRAINT rules_pkey PRIMARY KEY (id),
    CONSTRAINT rules_name_key UNIQUE (name),
    CONSTRAINT rules_shard_id_key UNIQUE (shard_id),
    CONSTRAINT rules_shard_id_fkey FOREIGN KEY(shard_id) REFERENCES aggregator.shards (id),
    CONSTRAINT rules_target_id_fkey FOREIGN KEY(target_id) REFERENCES aggregator.targets (id)
);

CREATE TABLE aggregator.rule_inputs (
    block_id INTEGER NOT NULL,
    rule_id INTEGER NOT NULL,
    kind SMALLINT NOT NULL,
    outputs BIGINT[] NOT NULL,
    CONSTRAINT rule_inputs_pkey PRIMARY KEY (block_id, rule_id),
    CONSTRAINT rule_inputs_rule_id_fkey FOREIGN KEY(rule_id) REFERENCES aggregator.rules (id)
);

CREATE INDEX rule_inputs_rule_id_idx ON aggregator.rule_inputs (rule_id);

CREATE TABLE aggregator.rule_shards (
    shard_id INTEGER NOT NULL,
    input_shard_id INTEGER NOT NULL,
    CONSTRAINT rule_shards_pkey PRIMARY KEY (shard_id, input_shard_id),
    CONSTRAINT rule_shards_shard_id_fkey FOREIGN KEY(shard_id) REFERENCES aggregator.shards (id),
    CONSTRAINT rule_shards_input_shard_id_fkey FOREIGN KEY(input_shard_id) REFERENCES aggregator.shards (id)
);
"""

# As of all arrays of numbers: no plan needs statistics of them.
NO_STATISTICS_OF_SLOTS = """
DO $$
DECLARE
    found regclass;
BEGIN
    FOR found IN
        SELECT a.attrelid::regclass
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        WHERE c.relnamespace = 'aggregator'::regnamespace AND c.relkind = 'r' AND c.relispartition
            AND a.attname = 'slots'
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN slots SET STATISTICS 0', found);
    END LOOP;
END
$$
"""


def upgrade() -> None:
    """Nothing of what is stored changes: an output has slots of its own, and there is no output yet."""
    for statement in CHANGES.split(";"):
        if statement.strip():
            op.execute(statement)
    op.execute(NO_STATISTICS_OF_SLOTS)


def downgrade() -> None:
    """There is no way back to less: restore a backup."""
    raise NotImplementedError("restore a backup that was made before")

"""Every table of schema `aggregator`, as SQLAlchemy Core; the migrations make what this describes.

Column order in `rollup` is deliberate: two full rows of a block must fit a page (docs/architecture.md, "Bytes").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, REAL
from sqlalchemy.types import TypeEngine

from aggregator.storage.sealed_columns import OWN, SAMPLE_OWN, SAMPLE_SHARED, SHARED, columns_of

SCHEMA = "aggregator"

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)


def _instant() -> DateTime:
    return DateTime(timezone=True)


_PACKED_TYPES: Mapping[str, type[TypeEngine[Any]] | TypeEngine[Any]] = {
    "float8": Double,
    "real": REAL,
    "bytea": LargeBinary,
    "smallint[]": ARRAY(SmallInteger),
    "integer[]": ARRAY(Integer),
    "real[]": ARRAY(REAL),
    "float8[]": ARRAY(Double),
}


def _packed(statistics: Sequence[str]) -> list[Column[Any]]:
    """The columns that hold packed statistics; most of them are NULL in most rows."""
    return [Column(name, _PACKED_TYPES[column_type]) for name, column_type in columns_of(statistics).items()]


#: One row: settings of the installation that SQL functions and readers need.
installation = Table(
    "installation",
    metadata,
    Column("is_only", Boolean, primary_key=True, server_default=text("true")),
    Column("namespace", Text, nullable=False),
    Column("lateness_seconds", Double, nullable=False),
    Column("lookback_seconds", Double, nullable=False),
    Column("sample_retention_seconds", Double, nullable=False),
    Column("config_hash", Text, nullable=False),
    Column("published_at", _instant(), nullable=False),
    Column("published_by", Text, nullable=False),
    CheckConstraint("is_only", name="one_row"),
)

#: Machines that run workers.
nodes = Table(
    "nodes",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("last_seen", _instant(), nullable=False),
    Column("started_at", _instant(), nullable=False),
    Column("config_hash", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("exporter_url", Text),
)

#: Configured things to observe; `definition` is the whole entry, so that any worker can serve it.
sources = Table(
    "sources",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("kind", Text, nullable=False),
    Column("definition", JSONB, nullable=False),
    Column("interval_seconds", Double, nullable=False),
    Column("offset_seconds", Double, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("last_woken_slot", _instant()),
    Column("published_at", _instant(), nullable=False),
    Column("published_by", Text, nullable=False),
)

#: Targets that are collected, locked and rolled up together. A rollup locks the row; collections never touch it.
shards = Table(
    "shards",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("source_id", Integer, ForeignKey("sources.id"), nullable=False),
    Column("node_id", Integer, ForeignKey("nodes.id")),
    Column("is_intake", Boolean, nullable=False, server_default=text("false")),
    Index(None, "source_id"),
    # One shard per node and one intake per source, however many workers make them at once.
    Index(
        "shards_source_id_node_id_key",
        "source_id",
        "node_id",
        unique=True,
        postgresql_where=text("node_id IS NOT NULL"),
    ),
    Index("shards_intake_key", "source_id", unique=True, postgresql_where=text("is_intake")),
)

#: Which slots of a shard were claimed, and how many between the first and the last never were.
shard_slots = Table(
    "shard_slots",
    metadata,
    Column("shard_id", Integer, ForeignKey("shards.id"), primary_key=True, autoincrement=False),
    Column("first_slot", _instant(), nullable=False),
    Column("last_slot", _instant(), nullable=False),
    Column("slots_missed", BigInteger, nullable=False, server_default=text("0")),
)

#: One endpoint of a source. `shard_id` is set once, after its first collection; `weight` is its series then.
targets = Table(
    "targets",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("source_id", Integer, ForeignKey("sources.id"), nullable=False),
    Column("shard_id", Integer, ForeignKey("shards.id")),
    Column("node_id", Integer, ForeignKey("nodes.id")),
    Column("map_id", Integer),
    Column("weight", Integer, nullable=False, server_default=text("0")),
    Column("address", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("is_up", Boolean),
    Column("state_since", _instant()),
    Column("last_error", Text),
    Column("last_error_at", _instant()),
    Column("created_at", _instant(), nullable=False),
    UniqueConstraint("source_id", "address", "labels"),
    Index(None, "shard_id"),
)

#: A metric name plus its label set, on one target, of one kind. Found by a hash: labels may exceed a btree entry.
series = Table(
    "series",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("target_id", Integer, ForeignKey("targets.id"), nullable=False),
    Column("block_id", Integer),
    Column("position", SmallInteger),
    Column("kind", SmallInteger, nullable=False),
    Column("identity_hash", LargeBinary, nullable=False),
    Column("metric", Text, nullable=False),
    Column("labels", JSONB, nullable=False),
    Column("created_at", _instant(), nullable=False),
    Column("has_sketch", Boolean, nullable=False, server_default=text("false")),
    UniqueConstraint("target_id", "identity_hash"),
    UniqueConstraint("block_id", "position"),
    Index("series_metric_idx", "metric"),
    Index("series_unplaced_idx", "target_id", postgresql_where=text("block_id IS NULL")),
    Index("series_sketched_idx", "block_id", postgresql_where=text("has_sketch")),
)

#: The append-only list of a target's series that sample frames follow.
frame_maps = Table(
    "frame_maps",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("target_id", Integer, ForeignKey("targets.id"), nullable=False),
    Column("series_ids", ARRAY(BigInteger), nullable=False),
    Column("created_at", _instant(), nullable=False),
    Index(None, "target_id"),
)

#: All values of one target at one instant, in the order of its frame map; NaN means no sample.
#: `places`: where few of a map's series have a sample, the places (from 1) of `values`; NULL: they are the first ones.
sample_frame = Table(
    "sample_frame",
    metadata,
    Column("target_id", Integer, primary_key=True, autoincrement=False),
    Column("map_id", Integer, nullable=False),
    Column("at", _instant(), primary_key=True),
    Column("received_at", _instant(), nullable=False),
    Column("values", ARRAY(Double), nullable=False),
    Column("places", ARRAY(Integer)),
    postgresql_partition_by="RANGE (at)",
)

#: A step with its retention. `parent_id`: the finer tier that it is built from; NULL is built from samples.
#: `step_months`: calendar months of a step that is no fixed time; `step_seconds` is then their average length.
#: `complete_since`: from when on a tier that was added later has all its buckets; NULL was there from the beginning.
tiers = Table(
    "tiers",
    metadata,
    Column("id", SmallInteger, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("step_seconds", Double, nullable=False),
    Column("retention_seconds", Double, nullable=False),
    Column("timezone", Text, nullable=False),
    Column("parent_id", SmallInteger, ForeignKey("tiers.id")),
    Column("active", Boolean, nullable=False),
    Column("step_months", SmallInteger, nullable=False, server_default=text("0")),
    Column("verify_mismatches", BigInteger, nullable=False, server_default=text("0")),
    Column("complete_since", _instant()),
)

#: At most 64 series of one shard and one kind; `size` positions are taken.
blocks = Table(
    "blocks",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("shard_id", Integer, ForeignKey("shards.id"), nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("size", SmallInteger, nullable=False),
    CheckConstraint("size BETWEEN 0 AND 64", name="size"),
    Index(None, "shard_id", "kind"),
)

#: The rollups of one block in one bucket, one array per statistic. `last_at`: milliseconds after the bucket's start.
#: `slots`: slots due for each series by itself, in place of `slots_due`; only outputs of rules have them.
rollup = Table(
    "rollup",
    metadata,
    Column("bucket", _instant(), nullable=False),
    Column("block_id", Integer, nullable=False),
    Column("slots_due", Integer, nullable=False),
    Column("tier_id", SmallInteger, nullable=False),
    Column("count", ARRAY(Integer), nullable=False),
    Column("last_at", ARRAY(Integer)),
    Column("sum", ARRAY(Double)),
    Column("min", ARRAY(Double)),
    Column("max", ARRAY(Double)),
    Column("first", ARRAY(Double)),
    Column("last", ARRAY(Double)),
    Column("m2", ARRAY(Double)),
    Column("increase", ARRAY(Double)),
    Column("covered", ARRAY(Double)),
    Column("slots", ARRAY(Integer)),
    PrimaryKeyConstraint("tier_id", "block_id", "bucket"),
    postgresql_partition_by="LIST (tier_id)",
)

#: The rollups of one series in the buckets of a span from `start` on, each statistic packed; `clock`: which one is its.
#: A rollup is either here or in `rollup`, at any instant (docs/adr/0017-sealed-rows.md).
sealed = Table(
    "sealed",
    metadata,
    Column("start", _instant(), nullable=False),
    Column("block_id", Integer, nullable=False),
    Column("tier_id", SmallInteger, nullable=False),
    Column("position", SmallInteger, nullable=False),
    Column("clock", SmallInteger, nullable=False),
    *_packed(OWN),
    PrimaryKeyConstraint("tier_id", "block_id", "position", "start"),
    postgresql_partition_by="LIST (tier_id)",
)

#: What series of a block that were scraped together share in a span of `buckets` that are `step_ms` apart.
clock = Table(
    "clock",
    metadata,
    Column("start", _instant(), nullable=False),
    Column("step_ms", BigInteger, nullable=False),
    Column("block_id", Integer, nullable=False),
    Column("tier_id", SmallInteger, nullable=False),
    Column("clock", SmallInteger, nullable=False),
    Column("buckets", SmallInteger, nullable=False),
    *_packed(SHARED),
    PrimaryKeyConstraint("tier_id", "block_id", "start", "clock"),
    postgresql_partition_by="LIST (tier_id)",
)

#: The samples of one place of a frame map in some hours from `start` on, packed; `clock`: at which instants they are.
#: A frame is either here or in `sample_frame`, at any instant.
sample_sealed = Table(
    "sample_sealed",
    metadata,
    Column("start", _instant(), nullable=False),
    Column("target_id", Integer, nullable=False),
    Column("map_id", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    Column("clock", Integer, nullable=False),
    *_packed(SAMPLE_OWN),
    PrimaryKeyConstraint("target_id", "map_id", "place", "start"),
    postgresql_partition_by="RANGE (start)",
)

#: When the `samples` of some places of a frame map are: `at`, milliseconds after `start`; `received`, after `at`.
sample_clock = Table(
    "sample_clock",
    metadata,
    Column("start", _instant(), nullable=False),
    Column("target_id", Integer, nullable=False),
    Column("map_id", Integer, nullable=False),
    Column("clock", Integer, nullable=False),
    Column("samples", Integer, nullable=False),
    *_packed(SAMPLE_SHARED),
    PrimaryKeyConstraint("target_id", "map_id", "start", "clock"),
    postgresql_partition_by="RANGE (start)",
)

#: How far a shard's rollups of a tier, or samples (`tier_id` 0), may be sealed: nothing from `until` on is. Written in
#: the transaction that seals, at `sealed_at`.
sealings = Table(
    "sealings",
    metadata,
    Column("tier_id", SmallInteger, primary_key=True, autoincrement=False),
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column("until", _instant(), nullable=False),
    Column("sealed_at", _instant(), nullable=False),
)

#: How the samples of some series of a block are distributed in a bucket: parallel arrays, ordered by position and key.
sketch = Table(
    "sketch",
    metadata,
    Column("bucket", _instant(), nullable=False),
    Column("block_id", Integer, nullable=False),
    Column("tier_id", SmallInteger, nullable=False),
    Column("positions", ARRAY(SmallInteger), nullable=False),
    Column("keys", ARRAY(Integer), nullable=False),
    Column("counts", ARRAY(Integer), nullable=False),
    PrimaryKeyConstraint("tier_id", "block_id", "bucket"),
    postgresql_partition_by="LIST (tier_id)",
)

#: Inputs that changed since they were last rolled up. Writers only append. `target_id` NULL: all of the shard.
dirty = Table(
    "dirty",
    metadata,
    Column("tier_id", SmallInteger, nullable=False),
    Column("shard_id", Integer, nullable=False),
    Column("target_id", Integer),
    Column("bucket", _instant(), nullable=False),
    Column("due", _instant(), nullable=False),
    Column("marked", _instant(), nullable=False),
    Column("backfill", Boolean, nullable=False, server_default=text("false")),
    Index("dirty_shard_id_bucket_idx", "shard_id", "bucket"),
    Index("dirty_due_idx", "backfill", "due"),
)

#: One row per shard and slot; arrays run parallel to `target_ids`. outcome: 0 pending, 1 ok, 2 failed.
collections = Table(
    "collections",
    metadata,
    Column("shard_id", Integer, primary_key=True, autoincrement=False),
    Column("slot", _instant(), primary_key=True),
    Column("token", Uuid, nullable=False),
    Column("lease_until", _instant(), nullable=False),
    Column("node", Text, nullable=False),
    Column("by_hand", Boolean, nullable=False, server_default=text("false")),
    Column("claims", SmallInteger, nullable=False, server_default=text("1")),
    Column("started_at", _instant(), nullable=False),
    Column("finished_at", _instant()),
    Column("target_ids", ARRAY(Integer), nullable=False),
    Column("outcome", ARRAY(SmallInteger), nullable=False),
    Column("duration_seconds", ARRAY(REAL), nullable=False),
    Column("samples", ARRAY(Integer), nullable=False),
    postgresql_partition_by="RANGE (slot)",
)

#: One row per run of a stage; `slot` is unique per stage and subject where a run belongs to one. `first_bucket` and
#: `last_bucket`: what a rollup took off the ledger lay between them, both included.
runs = Table(
    "runs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("stage", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("slot", _instant()),
    Column("node", Text, nullable=False),
    Column("started_at", _instant(), nullable=False),
    Column("lease_until", _instant()),
    Column("finished_at", _instant()),
    Column("outcome", Text),
    Column("rows", BigInteger),
    Column("error", Text),
    Column("first_bucket", _instant()),
    Column("last_bucket", _instant()),
    Column("backfill", Boolean, nullable=False, server_default=text("false")),
    Index("runs_subject_started_at_idx", "subject", "started_at"),
    Index("runs_slot_key", "stage", "subject", "slot", unique=True, postgresql_where=text("slot IS NOT NULL")),
    Index("runs_started_at_idx", "started_at"),
)

#: The last wake of each periodic job that a worker has read: whether beat lives.
wakes = Table(
    "wakes",
    metadata,
    Column("job", Text, primary_key=True),
    Column("slot", _instant(), nullable=False),
    Column("woken_at", _instant(), nullable=False),
    Column("slots_missed", BigInteger, nullable=False, server_default=text("0")),
)

#: Named, precomputed answers; the last good value stays when a refresh fails. `version` rises with each change of what
#: readers see. `asked_at`: a refresh is wanted beyond the slots, since then. `value` keeps the order of its columns.
summaries = Table(
    "summaries",
    metadata,
    Column("name", Text, primary_key=True),
    Column("definition", JSONB, nullable=False),
    Column("active", Boolean, nullable=False),
    Column("refresh_seconds", Double, nullable=False),
    Column("value", JSON(none_as_null=True)),
    Column("as_of", _instant()),
    Column("computed_at", _instant()),
    Column("tier", Text),
    Column("completeness", Double),
    Column("is_final", Boolean),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("last_error", Text),
    Column("last_error_at", _instant()),
    Column("asked_at", _instant()),
)

#: Up to where the oldest partitions of a table (of a tier, for rollup) have been dropped.
retained = Table(
    "retained",
    metadata,
    Column("table_name", Text, primary_key=True),
    Column("tier_id", SmallInteger, primary_key=True, autoincrement=False, server_default=text("0")),
    Column("dropped_before", _instant(), nullable=False),
)

#: When backfill last wrote to a partition whose time had passed: its retention counts from then.
partition_writes = Table(
    "partition_writes",
    metadata,
    Column("table_name", Text, primary_key=True),
    Column("tier_id", SmallInteger, primary_key=True, autoincrement=False, server_default=text("0")),
    Column("start", _instant(), primary_key=True),
    Column("last_written", _instant(), nullable=False),
)

#: Partitions past their retention that `maintain` had to leave, and why: `cause` is a static word for `reason`.
held_partitions = Table(
    "held_partitions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("table_name", Text, nullable=False),
    Column("cause", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("held_since", _instant(), nullable=False),
)

#: Recomputations that were asked for; newest first, so what is marked reaches from `until` down to `marked_down_to`.
#: `kept`: by tier the buckets that stay as they are because their inputs are gone: how many, the oldest, the newest.
recomputations = Table(
    "recomputations",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("selector", Text, nullable=False),
    Column("since", _instant(), nullable=False),
    Column("until", _instant(), nullable=False),
    Column("marked_down_to", _instant(), nullable=False),
    Column("buckets_marked", BigInteger, nullable=False, server_default=text("0")),
    Column("kept", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("started_at", _instant(), nullable=False),
    Column("finished_at", _instant()),
)

#: Rules as they are published. All outputs of a rule are series of one target, in a shard that nobody collects.
#: `defined_since`: older buckets may hold what an earlier definition gave; NULL: there was none.
rules = Table(
    "rules",
    metadata,
    Column("id", Integer, Identity(always=True), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("definition", JSONB, nullable=False),
    Column("shard_id", Integer, ForeignKey("shards.id"), nullable=False, unique=True),
    Column("target_id", Integer, ForeignKey("targets.id"), nullable=False),
    Column("active", Boolean, nullable=False),
    Column("defined_since", _instant()),
)

#: Which series of a block are inputs of a rule. `outputs`: by position the series that each goes into, 0 for none.
rule_inputs = Table(
    "rule_inputs",
    metadata,
    Column("block_id", Integer, primary_key=True, autoincrement=False),
    Column("rule_id", Integer, ForeignKey("rules.id"), primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, nullable=False),
    Column("outputs", ARRAY(BigInteger), nullable=False),
    Index(None, "rule_id"),
)

#: The shards in which inputs of a rule lie, by the rule's own: an output is not final before they are.
rule_shards = Table(
    "rule_shards",
    metadata,
    Column("shard_id", Integer, ForeignKey("shards.id"), primary_key=True, autoincrement=False),
    Column("input_shard_id", Integer, ForeignKey("shards.id"), primary_key=True, autoincrement=False),
)

#: Jobs whose process was lost since their last success, how often in a row, and from when on they are tried again.
#: `quarantined_at` NULL: so far it is only counted.
job_losses = Table(
    "job_losses",
    metadata,
    Column("task", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("losses", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("first_lost_at", _instant(), nullable=False),
    Column("last_lost_at", _instant(), nullable=False),
    Column("quarantined_at", _instant()),
    Column("retry_at", _instant()),
)

__all__ = [
    "SCHEMA",
    "blocks",
    "clock",
    "collections",
    "dirty",
    "frame_maps",
    "held_partitions",
    "installation",
    "job_losses",
    "metadata",
    "nodes",
    "partition_writes",
    "recomputations",
    "retained",
    "rollup",
    "rule_inputs",
    "rule_shards",
    "rules",
    "runs",
    "sample_clock",
    "sample_frame",
    "sample_sealed",
    "sealed",
    "sealings",
    "series",
    "shard_slots",
    "shards",
    "sketch",
    "sources",
    "summaries",
    "targets",
    "tiers",
    "wakes",
]

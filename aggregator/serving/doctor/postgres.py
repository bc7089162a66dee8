"""The diagnosis of a PostgreSQL: version, rights, settings of planner and vacuum, connections, clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from aggregator.serving.doctor.finding import Finding, fine, warning, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aggregator.storage.server_facts import ServerFacts

OLDEST_MAJOR, NEWEST_MAJOR = 14, 18
#: Above this the planner believes in disks with arms (docs/pitfalls.md#random-page-cost).
MOST_RANDOM_PAGE_COST = 2.0
CONNECTIONS_SHARE = 0.8
#: PostgreSQL stops at 2.1 thousand million; autovacuum begins to hurry at 200 million.
OLD_TRANSACTIONS, ANCIENT_TRANSACTIONS = 500_000_000, 1_500_000_000
CLOCK_TOLERANCE = timedelta(seconds=1)
#: Half of the default lateness: beyond it collections and roll-ups disagree on which bucket has ended.
CLOCK_LIMIT = timedelta(seconds=30)

#: Planner settings that are on unless somebody has switched them off, and without which our queries read far too much.
_PLANNER = (
    "enable_bitmapscan", "enable_hashjoin", "enable_indexscan", "enable_memoize", "enable_nestloop",
    "enable_partition_pruning", "enable_sort",
)  # fmt: skip
SETTINGS = (
    *_PLANNER, "random_page_cost", "jit", "fsync", "full_page_writes", "autovacuum", "track_counts",
    "default_transaction_isolation", "default_transaction_read_only", "plan_cache_mode",
)  # fmt: skip


def diagnose(facts: ServerFacts, *, now: datetime) -> Iterator[Finding]:
    """Findings on a server whose clock was read when ours said `now` (UTC)."""
    yield _version(facts)
    yield from _database(facts)
    yield _rights(facts)
    yield _planner(facts)
    yield _durability(facts)
    yield _vacuum(facts)
    yield _connections(facts)
    yield clock(facts.clock, now=now)


def _version(facts: ServerFacts) -> Finding:
    major = facts.version // 10_000
    says = f"PostgreSQL {major}.{facts.version % 10_000}"
    if major < OLDEST_MAJOR:
        return wrong("database version", says, f"upgrade it to PostgreSQL {OLDEST_MAJOR} or newer")
    if major > NEWEST_MAJOR:
        return warning("database version", f"{says} is newer than what is tested", "read the changelog for its support")
    return fine("database version", says)


def _database(facts: ServerFacts) -> Iterator[Finding]:
    name = _quoted(facts.database)
    if facts.is_standby:
        yield wrong("database", "it is a standby, which only reads", "let AGGREGATOR_DATABASE_URL name the primary")
    elif facts.settings.get("default_transaction_read_only") == "on":
        remedy = f"ALTER DATABASE {name} SET default_transaction_read_only = off, or the same for role {facts.role}"
        yield wrong("database", "transactions are read-only by default", remedy)
    if facts.encoding != "UTF8":
        yield wrong(
            "encoding",
            f"{facts.encoding}: labels of other alphabets cannot be stored",
            "make the database anew: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )
    else:
        yield fine("encoding", facts.encoding)


def _rights(facts: ServerFacts) -> Finding:
    role, database = _quoted(facts.role), _quoted(facts.database)
    if facts.foreign_tables:
        says = f"{facts.foreign_tables} tables of schema aggregator belong to another role"
        return wrong("rights", says, f"as a superuser: REASSIGN OWNED BY the other role TO {role}, in this database")
    if not facts.may_create:
        remedy = f"let its owner run: GRANT CREATE ON DATABASE {database} TO {role}; or CREATE SCHEMA aggregator"
        return wrong(
            "rights", f"role {facts.role} may not create in schema aggregator", f"{remedy} AUTHORIZATION {role}"
        )
    return fine("rights", f"role {facts.role} may make what it needs")


def _planner(facts: ServerFacts) -> Finding:
    off = sorted(name for name in _PLANNER if facts.settings.get(name) == "off")
    here = f"ALTER DATABASE {_quoted(facts.database)} SET"
    if off:
        return wrong("planner", f"switched off: {', '.join(off)}", f"{here} {off[0]} = on, and so on")
    found, remedies = [], []
    cost = facts.settings.get("random_page_cost")
    if cost is not None and float(cost) > MOST_RANDOM_PAGE_COST:
        found.append(f"random_page_cost = {cost} is for disks with arms")
        remedies.append(f"{here} random_page_cost = 1.1")
    if facts.settings.get("jit") == "on":
        found.append("jit = on compiles queries that are over sooner")
        remedies.append(f"{here} jit = off")
    if facts.settings.get("plan_cache_mode") == "force_generic_plan":
        found.append("plan_cache_mode = force_generic_plan cannot leave partitions out")
        remedies.append(f"{here} plan_cache_mode = auto")
    if found:
        return warning("planner", "; ".join(found), "; ".join(remedies))
    return fine("planner", f"random_page_cost = {cost}, jit off, nothing switched off")


def _durability(facts: ServerFacts) -> Finding:
    off = [name for name in ("fsync", "full_page_writes") if facts.settings.get(name) == "off"]
    if off:
        says = f"{' and '.join(off)} off: a machine that stops may leave a damaged database"
        return warning("durability", says, "set them on in postgresql.conf, and reload")
    return fine("durability", "fsync and full_page_writes on")


def _vacuum(facts: ServerFacts) -> Finding:
    off = [name for name in ("autovacuum", "track_counts") if facts.settings.get(name) == "off"]
    if off:
        return wrong("vacuum", f"{' and '.join(off)} off: tables grow for ever", f"set {off[0]} = on, and reload")
    says = f"the oldest row is {facts.transaction_age:,} transactions old"
    remedy = "look for transactions, replication slots and prepared transactions that are days old, and end them"
    if facts.transaction_age > ANCIENT_TRANSACTIONS:
        return wrong("vacuum", f"{says}; PostgreSQL stops at 2,100,000,000", f"{remedy}; then VACUUM FREEZE")
    if facts.transaction_age > OLD_TRANSACTIONS:
        return warning("vacuum", says, remedy)
    return fine("vacuum", f"on; {says}")


def _connections(facts: ServerFacts) -> Finding:
    says = f"{facts.connections} of {facts.most_connections} in use"
    if facts.connections >= CONNECTIONS_SHARE * facts.most_connections:
        return warning("connections", says, "raise max_connections, or put a PgBouncer in front")
    if facts.role_limit >= 0 and facts.role_connections >= CONNECTIONS_SHARE * facts.role_limit:
        says = f"{facts.role_connections} of the {facts.role_limit} that role {facts.role} may have"
        return warning("connections", says, f"ALTER ROLE {_quoted(facts.role)} CONNECTION LIMIT a larger number")
    return fine("connections", says)


def clock(theirs: datetime, *, now: datetime) -> Finding:
    """How far the database's clock and this machine's are apart."""
    apart = (theirs - now).total_seconds()
    says = f"the database's is {abs(apart):,.1f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    remedy = "let both machines take the time from the network (chrony, systemd-timesyncd)"
    if abs(apart) > CLOCK_LIMIT.total_seconds():
        return wrong("clock", f"{says}: buckets end at the wrong time", remedy)
    if abs(apart) > CLOCK_TOLERANCE.total_seconds():
        return warning("clock", says, remedy)
    return fine("clock", says)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

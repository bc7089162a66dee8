"""The diagnosis of a Redis or Valkey, as broker or as cache: version, memory, eviction, persistence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aggregator.client import connect
from aggregator.serving.doctor.finding import Finding, fine, warning, wrong

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT_SECONDS = 2.0
OLDEST = (6, 2)
MEMORY_SHARE = 0.8
_KEEPING = "noeviction"


def server_information(url: str) -> dict[str, Any]:
    """What INFO says; raises redis.RedisError where the server cannot be asked, UsageError for a URL that is none."""
    client = connect(url, timeout_seconds=TIMEOUT_SECONDS)
    try:
        return dict(client.info())
    finally:
        client.close()


def diagnose(about: str, information: Mapping[str, Any], *, holds_messages: bool) -> Iterator[Finding]:
    """Findings on one server; `holds_messages`: it is the broker, whose data may not be evicted."""
    yield _version(about, information)
    yield _memory(about, information, holds_messages=holds_messages)
    yield _clients(about, information)
    if holds_messages:
        yield _persistence(about, information)


def _version(about: str, information: Mapping[str, Any]) -> Finding:
    is_valkey = "valkey_version" in information
    version = str(information.get("valkey_version") or information.get("redis_version", "?"))
    says = f"{'Valkey' if is_valkey else 'Redis'} {version}"
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not is_valkey and numbers < OLDEST:
        return wrong(f"{about} version", says, "upgrade it to Redis 6.2 or newer, or to Valkey")
    return fine(f"{about} version", says)


def _memory(about: str, information: Mapping[str, Any], *, holds_messages: bool) -> Finding:
    used, most = int(information.get("used_memory", 0)), int(information.get("maxmemory", 0))
    policy = str(information.get("maxmemory_policy", "unknown"))
    if most == 0:
        return fine(f"{about} memory", f"{used / 1e6:,.0f} MB used, no limit; eviction policy {policy}")
    says = f"{used / 1e6:,.0f} of {most / 1e6:,.0f} MB used; eviction policy {policy}"
    if holds_messages and policy != _KEEPING:
        remedy = f"set maxmemory-policy {_KEEPING} on it (CONFIG SET maxmemory-policy {_KEEPING}, and in its file)"
        return wrong(f"{about} memory", f"{says}: messages that are evicted are jobs that are lost", remedy)
    if used >= MEMORY_SHARE * most and policy == _KEEPING:
        return warning(f"{about} memory", says, "raise maxmemory; a worker whose broker is full ends")
    return fine(f"{about} memory", says)


def _clients(about: str, information: Mapping[str, Any]) -> Finding:
    used, most = int(information.get("connected_clients", 0)), int(information.get("maxclients", 0))
    says = f"{used} of {most} connections in use"
    if most and used >= MEMORY_SHARE * most:
        return warning(f"{about} connections", says, "raise maxclients")
    return fine(f"{about} connections", says)


def _persistence(about: str, information: Mapping[str, Any]) -> Finding:
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if str(information.get(name, "ok")) != "ok"
    ]
    if failed:
        remedy = "look into its log; a full disk or a missing right makes it refuse every message"
        return wrong(f"{about} persistence", f"saving failed: {', '.join(failed)}", remedy)
    kept = "kept in a log (AOF)" if int(information.get("aof_enabled", 0)) else "lost with the server"
    return fine(f"{about} persistence", f"messages are {kept}; losing them is harmless")


def shares_database(first: str, second: str) -> bool:
    """Whether two URLs name the same database of the same server."""
    mine, theirs = (
        connect(url, timeout_seconds=TIMEOUT_SECONDS).connection_pool.connection_kwargs for url in (first, second)
    )
    return all(mine.get(name) == theirs.get(name) for name in ("host", "port", "path", "db"))

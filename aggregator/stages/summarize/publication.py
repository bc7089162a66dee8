"""Summaries in Redis: whole documents that never go backwards, and what readers have asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import redis
import structlog

from aggregator.client import connect
from aggregator.client.keys import names_key, summary_key, wanted_key
from aggregator.storage.engine import Database
from aggregator.storage.stored_summaries import read_stored_summaries
from aggregator.storage.summaries import Published, withdrawn_summaries

log = structlog.get_logger(__name__)

CACHE_TIMEOUT_SECONDS = 5.0
#: A document that nobody has published anew for so long belongs to no installation any more.
LEAST_KEPT = timedelta(days=7)
KEPT_REFRESHES = 10

#: A document begins with its version, so that comparing versions reads no more than this.
_HEAD_BYTES = 31
_VERSION = re.compile(rb'\{"version":(\d+),')
_STORED_VERSION = f"""
local head = redis.call('GETRANGE', KEYS[1], 0, {_HEAD_BYTES})
local stored = tonumber(string.match(head, '^{{"version":(%d+),')) or -1
"""
# One key a script, so that a cluster runs it too.
_PUBLISH = f"""{_STORED_VERSION}
if stored > tonumber(ARGV[1]) then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3])
return 1
"""
_WITHDRAW = f"""{_STORED_VERSION}
if stored > tonumber(ARGV[1]) then return 0 end
return redis.call('DEL', KEYS[1])
"""


@dataclass
class Publication:
    """The summaries of an installation in its Redis. What fails here is logged, and made good at the next wake."""

    cache: redis.Redis
    namespace: str

    @classmethod
    def at(cls, url: str, *, namespace: str) -> Publication:
        """With timeouts that a half-open connection cannot outlast; raises UsageError for a URL that is none."""
        return cls(connect(url, timeout_seconds=CACHE_TIMEOUT_SECONDS), namespace)

    def publish(self, documents: Iterable[Mapping[str, Any]]) -> None:
        """Set each document, whole, unless a newer version is there."""
        script = self.cache.register_script(_PUBLISH)
        try:
            for document in documents:
                text = json.dumps(document, default=datetime.isoformat, ensure_ascii=False, separators=(",", ":"))
                seconds = max(LEAST_KEPT.total_seconds(), KEPT_REFRESHES * document["refresh_seconds"])
                key = summary_key(self.namespace, document["name"])
                script(keys=[key], args=[document["version"], text, round(seconds)])
        except redis.RedisError as error:
            log.warning("summaries_not_published", error=str(error))

    def catch_up(self, database: Database, published: Sequence[Published]) -> list[str]:
        """Refill what Redis lacks, remove what is no summary any more; gives what readers want and nobody has."""
        try:
            versions, wanted = self._look(published)
            self._list_names([one.name for one in published])
            self._withdraw({one.name: one.version for one in published if one.computed_at is None})
            self._withdraw(database.run(withdrawn_summaries))
        except redis.RedisError as error:
            log.warning("summaries_not_published", error=str(error))
            return []
        behind = [
            one.name for one in published if one.computed_at is not None and versions.get(one.name, -1) < one.version
        ]
        if behind:
            self.publish(database.run(lambda connection: read_stored_summaries(connection, behind)))
            log.info("summaries_refilled", summaries=behind)
        return [name for name in wanted if name not in behind]

    def _look(self, published: Sequence[Published]) -> tuple[dict[str, int], list[str]]:
        """The version of each document that is there; the summaries that readers want, whose marks are taken."""
        names = [one.name for one in published]
        with self.cache.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.getrange(summary_key(self.namespace, name), 0, _HEAD_BYTES)
            for name in names:
                pipeline.getdel(wanted_key(self.namespace, name))
            found = pipeline.execute()
        heads = dict(zip(names, found, strict=False))
        versions = {name: int(head[1]) for name, text in heads.items() if (head := _VERSION.match(text))}
        return versions, [name for name, mark in zip(names, found[len(names) :], strict=True) if mark is not None]

    def _list_names(self, names: Sequence[str]) -> None:
        """Readers tell by this set what is unknown from what is not ready."""
        key = names_key(self.namespace)
        if self.cache.smembers(key) == {name.encode() for name in names}:
            return
        with self.cache.pipeline(transaction=True) as pipeline:
            pipeline.delete(key)
            if names:
                pipeline.sadd(key, *names)
            pipeline.execute()

    def _withdraw(self, versions: Mapping[str, int]) -> None:
        """Remove documents that are not newer than these versions."""
        script = self.cache.register_script(_WITHDRAW)
        for name, version in versions.items():
            script(keys=[summary_key(self.namespace, name)], args=[version])

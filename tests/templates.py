"""Databases that are brought up once for each configuration and present; tests copy them, which is ten times faster."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from aggregator.config.digest import config_hash
from aggregator.config.model import Settings
from aggregator.embedded.postgres import EmbeddedPostgres
from aggregator.storage.bootstrap import bring_up
from tests.databases import create_database, drop_database
from tests.installation import Installation

#: Templates that are kept: the tests of one module share one or two.
_KEPT = 8
_numbers = itertools.count(1)

_Key = tuple[str, str, datetime]


@dataclass
class BroughtUp:
    """Makes databases in which these settings are published; `migrated`: the template that has the schema only."""

    server: EmbeddedPostgres
    migrated: str
    _names: OrderedDict[_Key, str] = field(default_factory=OrderedDict)

    @contextmanager
    def copied(self, settings: Settings, now: datetime) -> Iterator[str]:
        """The URL of a fresh database that was brought up with these settings at that time."""
        name = f"copy_{next(_numbers)}"
        url = create_database(self.server, name, template=self._template(settings, now))
        try:
            yield url
        finally:
            drop_database(self.server, name)

    def _template(self, settings: Settings, now: datetime) -> str:
        key = (config_hash(settings), settings.node, now)
        if key not in self._names:
            name = f"brought_up_{next(_numbers)}"
            bring_up(create_database(self.server, name, template=self.migrated), settings, now=now)
            self._names[key] = name
            if len(self._names) > _KEPT:
                drop_database(self.server, self._names.popitem(last=False)[1])
        return self._names[key]


@contextmanager
def installed(brought_up: BroughtUp, now: datetime, settings: Settings) -> Iterator[Installation]:
    """An installation in such a database, whose clock stands at `now`."""
    with (
        brought_up.copied(settings, now) as url,
        closing(Installation(url, now, settings, is_brought_up=True)) as made,
    ):
        yield made

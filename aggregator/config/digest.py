"""One short hash of all that nodes must agree on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aggregator.config.model import Settings

_SCALARS = ("namespace", "sample_retention", "lateness", "lookback")
_LISTS = ("sources", "tiers", "summaries", "rules")


def config_hash(settings: Settings) -> str:
    """Twelve hexadecimal digits over sources, tiers, summaries, rules and what decides how they are read.

    What is a node's own (its name, addresses, URLs, directories, concurrency, logging) is left out, and so is the order
    in which the entries are written.
    """
    dumped = settings.model_dump(mode="json", include={*_SCALARS, *_LISTS})
    for section in _LISTS:
        dumped[section] = sorted(dumped[section], key=lambda entry: str(entry["name"]))
    canonical = json.dumps(dumped, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]

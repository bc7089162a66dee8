"""Instants as people type them, for commands."""

from aggregator.config.instants import EXAMPLES, parse_instant

__all__ = ["EXAMPLES", "parse_instant"]

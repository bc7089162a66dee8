"""Periodic metrics aggregation into plain PostgreSQL: the package, its version, and nothing imported."""

__version__ = "0.2.0"

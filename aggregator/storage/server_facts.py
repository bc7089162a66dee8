"""What a PostgreSQL server says of itself: version, rights, settings, connections, clock; for whoever diagnoses it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class ServerFacts:
    """One server and database as they are at an instant.

    `version` as in server_version_num. `connections`: in use, of all databases; `most_connections`: what an ordinary
    role may use of them. `role_connections` and `role_limit`: of this role (-1: no limit). `transaction_age`: how many
    transactions ago the oldest row of this database may have been written; at two thousand million PostgreSQL stops.
    `may_create`: the schema is there, or may be made. `foreign_tables`: tables of the schema that another role owns.
    """

    version: int
    encoding: str
    is_standby: bool
    clock: datetime
    role: str
    database: str
    connections: int
    most_connections: int
    role_connections: int
    role_limit: int
    transaction_age: int
    may_create: bool
    foreign_tables: int
    settings: dict[str, str]


_FACTS = text(
    """
    SELECT CAST(current_setting('server_version_num') AS integer) AS version,
        current_setting('server_encoding') AS encoding,
        pg_is_in_recovery() AS is_standby,
        clock_timestamp() AS clock,
        current_user AS role,
        current_database() AS database,
        (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
        CAST(current_setting('max_connections') AS integer)
            - CAST(current_setting('superuser_reserved_connections') AS integer)
            - CAST(coalesce(current_setting('reserved_connections', true), '0') AS integer) AS most_connections,
        (SELECT count(*) FROM pg_stat_activity WHERE usename = current_user) AS role_connections,
        (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
        (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS transaction_age,
        CASE WHEN to_regnamespace('aggregator') IS NULL THEN has_database_privilege(current_database(), 'CREATE')
            ELSE has_schema_privilege('aggregator', 'CREATE') END AS may_create,
        (SELECT count(*) FROM pg_class WHERE relnamespace = to_regnamespace('aggregator') AND relkind IN ('r', 'p')
            AND NOT pg_has_role(relowner, 'USAGE')) AS foreign_tables
    """
)

_SETTINGS = text("SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY(:names)")


def server_facts(connection: Connection, settings: Sequence[str]) -> ServerFacts:
    """The facts, with the named settings in the form that SHOW prints; one that the version lacks is left out."""
    row = connection.execute(_FACTS).mappings().one()
    found = connection.execute(_SETTINGS, {"names": list(settings)}).all()
    return ServerFacts(**row, settings=dict(found))

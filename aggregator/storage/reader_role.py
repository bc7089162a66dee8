"""A role that only reads: its settings, its rights, and keeping those when views come."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from psycopg2.extensions import encrypt_password
from sqlalchemy import URL, Connection, text
from sqlalchemy.exc import DBAPIError

from aggregator.errors import RoleRefusedError, UsageError
from aggregator.storage.engine import driver_url
from aggregator.storage.tables import SCHEMA

CONNECTION_LIMIT = 20
#: What sessions of the role begin with. They may change it: grants and the connection limit are what protects.
_SETTINGS = {
    "default_transaction_read_only": "on",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "60s",
    "search_path": f"{SCHEMA}, public",
    "timezone": "UTC",
    "work_mem": "16MB",
}
_PASSWORD_BYTES = 18
_INSUFFICIENT_PRIVILEGE = "42501"


@dataclass(frozen=True)
class Reader:
    """A reader as it was made: `password` is None where the role keeps the one that it has."""

    name: str
    password: str | None

    def url(self, installed: str) -> str:
        """The URL for Grafana: the installation's with this role."""
        given = driver_url(installed)
        # Not `given.set(password=None)`, which keeps the installation's own password.
        url = URL.create("postgresql", self.name, self.password, given.host, given.port, given.database, given.query)
        return url.render_as_string(hide_password=False)


def statements(connection: Connection, name: str, *, password: str | None) -> list[str]:
    """The SQL that makes the role, or brings it up to date; the password is in it as a SCRAM verifier only."""
    role = _quoted(connection, name)
    secret = "" if password is None else f" PASSWORD '{_verifier(connection, name, password)}'"
    verb = "ALTER" if _exists(connection, name) else "CREATE"
    return [
        f"{verb} ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT {CONNECTION_LIMIT}{secret}",
        *(f"ALTER ROLE {role} SET {setting} = {value}" for setting, value in _setting_values()),
        *_grants(connection, role),
    ]


def make_reader(connection: Connection, name: str, *, password: str | None) -> Reader:
    """Make the role or bring it up to date; a new one that is given no password gets a random one.

    Raises UsageError for a role that is more than a reader, and RoleRefusedError where this user may not make roles.
    """
    _refuse_others(connection, name)
    if password is None and not _exists(connection, name):
        password = secrets.token_urlsafe(_PASSWORD_BYTES)
    try:
        for statement in statements(connection, name, password=password):
            connection.execute(text(statement.replace(":", "\\:")))
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) == _INSUFFICIENT_PRIVILEGE:
            raise RoleRefusedError from error
        raise
    return Reader(name, password)


def renew_grants(connection: Connection) -> None:
    """Give every reader the rights on views and functions that have come since; its owner may, whoever made the role.

    A reader is known by its right to read `tiers_kept`.
    """
    for role in connection.execute(_READERS).scalars():
        for statement in _grants(connection, role):
            connection.execute(text(statement.replace(":", "\\:")))


_READERS = text(
    f"""
    SELECT quote_ident(role.rolname)
    FROM pg_class AS view CROSS JOIN LATERAL aclexplode(view.relacl) AS granted
    JOIN pg_roles AS role ON role.oid = granted.grantee
    WHERE view.oid = to_regclass('{SCHEMA}.tiers_kept') AND granted.grantee <> view.relowner
        AND granted.privilege_type = 'SELECT'
    """  # noqa: S608 - our own schema
)
_VIEWS = text(
    f"""
    SELECT string_agg(format('%I.%I', '{SCHEMA}', relname), ', ' ORDER BY relname)
    FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'v'
    """  # noqa: S608 - our own schema
)


def _grants(connection: Connection, role: str) -> list[str]:
    views = connection.execute(_VIEWS).scalar_one()
    return [
        f"GRANT USAGE ON SCHEMA {SCHEMA} TO {role}",
        f"GRANT SELECT ON {views} TO {role}",
        f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {SCHEMA} TO {role}",
    ]


def _setting_values() -> list[tuple[str, str]]:
    # A search path is a list of names: in quotes it would be one name with a comma in it.
    return [(name, value if name == "search_path" else f"'{value}'") for name, value in _SETTINGS.items()]


def _quoted(connection: Connection, name: str) -> str:
    return str(connection.execute(text("SELECT quote_ident(:name)"), {"name": name}).scalar_one())


def _exists(connection: Connection, name: str) -> bool:
    found = connection.execute(text("SELECT FROM pg_roles WHERE rolname = :name"), {"name": name})
    return found.first() is not None


def _verifier(connection: Connection, name: str, password: str) -> str:
    """What the server stores of a password: sent instead of it, no log has the password."""
    scope = connection.connection.driver_connection
    return str(encrypt_password(password, name, scope=scope, algorithm="scram-sha-256"))


_MORE_THAN_A_READER = text(
    f"""
    SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls OR rolname = current_user
        OR EXISTS (SELECT FROM pg_auth_members WHERE member = role.oid)
        OR EXISTS (SELECT FROM pg_class WHERE relnamespace = '{SCHEMA}'::regnamespace AND relowner = role.oid)
    FROM pg_roles AS role WHERE rolname = :name
    """  # noqa: S608 - our own schema
)


def _refuse_others(connection: Connection, name: str) -> None:
    """A role that does something else would be locked out of it."""
    if not name or name.startswith("pg_") or len(name.encode()) > 63:  # noqa: PLR2004 - PostgreSQL's longest name
        raise UsageError(f"{name!r} cannot be the name of a role; write one such as grafana")
    if connection.execute(_MORE_THAN_A_READER, {"name": name}).scalar():
        raise UsageError(f"role {name} is there and is more than a reader; choose another name, such as grafana")

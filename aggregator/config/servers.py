"""URLs that nobody configured: those of the servers that `aggregator up` runs for this data directory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import SecretStr

from aggregator.errors import EnvironmentRefusedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from aggregator.config.model import Settings

SERVERS_FILE_NAME = "servers.json"
_URLS = ("database_url", "broker_url", "cache_url")


def servers_file(data_dir: Path) -> Path:
    """Where `aggregator up` writes the URLs of its servers while they run: a JSON object by name of the setting."""
    return data_dir / SERVERS_FILE_NAME


def with_running_servers(settings: Settings) -> Settings:
    """The settings with each URL that is not configured taken from the running servers, if there are any.

    Raises EnvironmentRefusedError where the file of the running servers cannot be read or understood.
    """
    missing = [field for field in _URLS if getattr(settings, field) is None]
    if not missing:
        return settings
    running = _running(servers_file(settings.data_dir))
    return settings.model_copy(update={field: SecretStr(running[field]) for field in missing if running.get(field)})


def _running(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except PermissionError:
        raise EnvironmentRefusedError(
            f"{path} belongs to another user; run as that user, or set {_variables()}"
        ) from None
    except (OSError, ValueError) as error:
        raise EnvironmentRefusedError(f"{path} cannot be read ({error}); start `aggregator up` again") from None
    return {field: found[field] for field in _URLS if isinstance(found, dict) and isinstance(found.get(field), str)}


def require_database_url(settings: Settings) -> str:
    """The database's URL, as it was given; UsageError, with what to do, where there is none."""
    return _required(settings.database_url, "database", "database_url")


def require_broker_url(settings: Settings) -> str:
    """The broker's URL, as it was given; UsageError, with what to do, where there is none."""
    return _required(settings.broker_url, "message broker", "broker_url")


def require_cache_url(settings: Settings) -> str:
    """The cache's URL, as it was given; UsageError, with what to do, where there is none."""
    return _required(settings.cache_url, "cache", "cache_url")


def _required(url: SecretStr | None, what: str, field: str) -> str:
    if url is None:
        raise UsageError(
            f"no {what} is configured; set AGGREGATOR_{field.upper()}, or start `aggregator up`, which brings its own"
        )
    return url.get_secret_value()


def _variables() -> str:
    return ", ".join(f"AGGREGATOR_{field.upper()}" for field in _URLS)

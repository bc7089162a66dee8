"""What a command needs first: the settings that the global options and the environment give."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

    from aggregator.config.model import Settings


def settings_of(context: typer.Context, **overrides: object) -> Settings:
    """The whole configuration, with the URLs of running embedded servers, and logging set up as it says.

    `overrides` are a command's own flags, by the name of the setting (None: not given). Raises ConfigurationError.
    """
    from aggregator.config.load import load_settings  # noqa: PLC0415 - `--help` need not load it
    from aggregator.config.servers import with_running_servers  # noqa: PLC0415 - as above
    from aggregator.logs import configure_logging  # noqa: PLC0415 - as above

    if context.obj.config is not None:
        # What this process imports or starts later reads the same file.
        os.environ["AGGREGATOR_CONFIG"] = str(context.obj.config)
    settings = load_settings(context.obj.config, overrides=overrides)
    configure_logging(settings.log_level, settings.log_format)
    return with_running_servers(settings)

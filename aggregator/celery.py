"""The Celery app where Celery looks for it: `celery -A aggregator worker`."""

import sys

from aggregator.errors import ConfigurationError

try:
    from aggregator.tasks import app
except ConfigurationError as error:
    # Celery's command line would show a traceback; this is one line per fault, as everywhere.
    sys.stderr.write(f"{error}\n")
    raise SystemExit(error.exit_code) from None

__all__ = ["app"]

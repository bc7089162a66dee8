"""The command line: one module per command, imported only when its command runs."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command of this process' arguments, and exit with its code."""
    from aggregator.cli.app import run  # noqa: PLC0415 - whoever imports the package need not load a command line

    sys.exit(run(sys.argv[1:]))

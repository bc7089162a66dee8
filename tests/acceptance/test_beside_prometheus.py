"""A real Prometheus beside the service, for two short windows: what must be equal is, with resets and restarts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.acceptance.conftest import Installed
from tests.acceptance.machines import ROOT

pytestmark = pytest.mark.acceptance

SCRIPT = ROOT / "benchmarks" / "prometheus_beside.py"
SHORT = ("--windows=2", "--window=12", "--interval=2")
#: More than the script gives itself on a machine that is too slow.
TIMEOUT_SECONDS = 900


def test_what_prometheus_says_of_a_window_is_what_the_views_say(installed: Installed) -> None:
    installed("prometheus")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *SHORT],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("| `histogram_quantile(") == 4

"""How many examples a property test tries: few in the suite, as many as one likes by a variable."""

from __future__ import annotations

import os

VARIABLE = "AGGREGATOR_TEST_EFFORT"


def examples(count: int) -> int:
    """The number of examples, times the effort that the environment asks for."""
    return max(1, round(count * float(os.environ.get(VARIABLE, "1"))))

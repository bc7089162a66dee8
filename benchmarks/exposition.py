"""How many samples a second are parsed: strictly, and by the fast path where some or all numbers are new.

Run it on a quiet machine: `python benchmarks/exposition.py [--file BODY]`. Without a file the body is made up in the
manner of node_exporter.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

from aggregator.config.source_model import Limits
from aggregator.exposition.parser import TargetParser

FAMILIES = 100
SERIES_PER_FAMILY = 10
ROUNDS = 100
STRICT_ROUNDS = 10
SHARES_CHANGED = (0.0, 0.25, 1.0)


def make_body() -> bytes:
    """A body of 1,000 samples with two comment lines for each ten of them."""
    lines = []
    for family in range(FAMILIES):
        name = f"node_subsystem_{family}_seconds_total"
        lines += [f"# HELP {name} What subsystem {family} has done so far.", f"# TYPE {name} counter"]
        lines += [f'{name}{{device="disk{number}",mode="idle"}} {number}' for number in range(SERIES_PER_FAMILY)]
    return ("\n".join(lines) + "\n").encode()


def with_new_numbers(body: bytes, share: float, choice: random.Random) -> bytes:
    """The body with that share of its values replaced: counts and seconds, as a machine has them."""

    def renew(line: bytes) -> bytes:
        if line.startswith(b"#") or not line or choice.random() >= share:
            return line
        value = choice.randrange(10**9) if choice.random() < 0.5 else round(choice.uniform(0, 1e6), 2)  # noqa: PLR2004 - half
        return line.rpartition(b" ")[0] + f" {value}".encode()

    return b"\n".join(map(renew, body.split(b"\n")))


def measure(parser: TargetParser, body: bytes) -> float:
    """Seconds for one body."""
    started = time.perf_counter()
    parser.parse(body, "text/plain")
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--file", type=Path, help="a saved body in the text format")
    path = arguments.parse_args().file
    body = path.read_bytes() if path else make_body()
    parser = TargetParser(Limits())
    samples = len(parser.parse(body, "text/plain").series)
    seconds = min(measure(TargetParser(Limits()), body) for _ in range(STRICT_ROUNDS))
    print(f"{samples} samples; strict: {samples / seconds:,.0f}/s")
    choice = random.Random(1)
    for share in SHARES_CHANGED:
        bodies = [with_new_numbers(body, share, choice) for _ in range(ROUNDS)]
        parser.parse(bodies[-1], "text/plain")
        seconds = min(measure(parser, changed) for changed in bodies)  # the round that nothing else disturbed
        print(f"{share:.0%} of the numbers new: {samples / seconds:,.0f}/s")


if __name__ == "__main__":
    main()

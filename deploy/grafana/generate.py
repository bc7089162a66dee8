"""Write the dashboards that `source/` declares into `dashboards/`, as Grafana reads them.

    python deploy/grafana/generate.py

A test fails where the files are not what this writes.
"""

from __future__ import annotations

import json
from pathlib import Path

from deploy.grafana.source.document import document
from deploy.grafana.source.explore import EXPLORE
from deploy.grafana.source.host import HOST
from deploy.grafana.source.operations import OPERATIONS

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = {"explore": EXPLORE, "host": HOST, "operations": OPERATIONS}


def texts() -> dict[str, str]:
    """The text of each file by its name."""
    return {
        f"{name}.json": json.dumps(document(dashboard), indent=2, ensure_ascii=False) + "\n"
        for name, dashboard in DASHBOARDS.items()
    }


def main() -> None:
    """Write all files."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in texts().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()

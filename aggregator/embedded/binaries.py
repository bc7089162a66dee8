"""Binaries that the server's account can run: in place if it can read them, else a copy beside the data."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.embedded.directories import PASSABLE, make_directory

if TYPE_CHECKING:
    from aggregator.embedded.account import Account

_ROOT_OF_WHEEL = 2  # site-packages / package / pginstall / bin: parents of bin, from 0
_EXECUTABLE = 0o755
_READABLE = 0o644


def runnable_binaries(binaries: Path, home: Path, account: Account) -> Path:
    """The directory itself, or that of a copy below `home` where the account cannot read it (a venv under /root)."""
    if account.can_run(binaries / "postgres"):
        return binaries
    status = (binaries / "postgres").stat()
    copies = make_directory(home / "binaries", mode=PASSABLE)
    copy = copies / f"{status.st_mtime_ns}-{status.st_size}"
    if not copy.exists():
        _replace_copies(copies, copy, binaries)
    return copy / Path(*binaries.parts[-3:])


def _replace_copies(copies: Path, copy: Path, binaries: Path) -> None:
    """Copy the package and its libraries side by side, as the binaries look for them; earlier copies go."""
    for old in copies.iterdir():
        shutil.rmtree(old)
    package = binaries.parents[1]
    unfinished = copies / "unfinished"
    shutil.copytree(
        binaries.parent, unfinished / package.name / binaries.parent.name, ignore=_not_needed, symlinks=True
    )
    libraries = binaries.parents[_ROOT_OF_WHEEL] / f"{package.name}.libs"
    if libraries.exists():
        shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
    _open_to_all(unfinished)
    unfinished.rename(copy)


def _not_needed(directory: str, _names: list[str]) -> list[str]:
    return ["include"] if Path(directory).name == "pginstall" else []


def _open_to_all(directory: Path) -> None:
    for folder, _, files in os.walk(directory):
        Path(folder).chmod(_EXECUTABLE)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(_EXECUTABLE if path.stat().st_mode & 0o100 else _READABLE)

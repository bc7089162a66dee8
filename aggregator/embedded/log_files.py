"""The children's logs: each appends to its own file, which is kept small and can be followed."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, BinaryIO

from aggregator.embedded.directories import PRIVATE, make_directory

if TYPE_CHECKING:
    from pathlib import Path

SIZE_LIMIT_BYTES = 10_000_000
_FOLLOWED_BYTES = 65_536


class LogFiles:
    """One file per child in a directory. Children write straight into theirs: no pipe of ours can block them.

    At the limit a file is copied to `<name>.log.1` and cut to nothing; what is written between the two is lost.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = make_directory(directory, mode=PRIVATE)
        self._read_bytes: dict[Path, int] = {}

    def path(self, name: str) -> Path:
        """The file of a child; created here, so that it can be followed from its first line."""
        path = self.directory / f"{name}.log"
        if path not in self._read_bytes:
            path.touch(mode=0o600)
            self._read_bytes[path] = path.stat().st_size
        return path

    def append(self, name: str) -> BinaryIO:
        """Open the file of a child for it to write to; cutting an appended file is safe."""
        return self.path(name).open("ab")

    def last_line(self, name: str) -> str:
        """The last line that a child wrote, for a message."""
        with self.path(name).open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - _FOLLOWED_BYTES))
            lines = log.read().decode("utf-8", errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def new_lines(self) -> list[str]:
        """What was written since the last call, each line with its child's name; at most 64 kB a file and call."""
        return [f"{path.stem}: {line}" for path in self._read_bytes for line in self._new_lines(path)]

    def _new_lines(self, path: Path) -> list[str]:
        with path.open("rb") as log:
            size = log.seek(0, 2)
            log.seek(self._read_bytes[path] if self._read_bytes[path] <= size else 0)
            whole, newline, _ = log.read(_FOLLOWED_BYTES).rpartition(b"\n")
            self._read_bytes[path] = log.tell() - len(_)
        return (whole + newline).decode("utf-8", errors="replace").splitlines()

    def limit(self) -> None:
        """Cut the files that have grown past the limit."""
        for path in self._read_bytes:
            if path.stat().st_size > SIZE_LIMIT_BYTES:
                shutil.copyfile(path, path.with_name(path.name + ".1"))
                path.write_bytes(b"")
                self._read_bytes[path] = 0

"""Reading the kernel's text files under /proc and /sys."""

from __future__ import annotations

from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


def read_text(path: Path) -> str:
    """The file's content; bytes that are not UTF-8 become U+FFFD. Raises OSError."""
    return path.read_bytes().decode(errors="replace")


def read_present(path: Path) -> str | None:
    """The file's content, or None on a kernel (or in a container) that has no such file."""
    try:
        return read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        return None

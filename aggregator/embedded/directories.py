"""Directories that the servers need: made by us, reachable by their account, short enough for a socket."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.errors import EnvironmentRefusedError

if TYPE_CHECKING:
    from aggregator.embedded.account import Account

#: sockaddr_un holds 108 bytes, the last of them NUL.
SOCKET_PATH_BYTES = 107
#: Where the servers of a root whose data directory `nobody` cannot reach keep what they own.
ROOT_STATE_DIRECTORY = Path("/var/lib/aggregator")

PRIVATE = 0o700
#: Others may pass through to what is theirs inside, and see nothing.
PASSABLE = 0o711


def make_directory(path: Path, *, mode: int) -> Path:
    """Make a directory, and those above it, where they are missing; the bits of existing ones are never touched.

    Raises EnvironmentRefusedError where that is not possible.
    """
    try:
        if not path.exists():
            make_directory(path.parent, mode=mode)
            path.mkdir()
            path.chmod(mode)  # mkdir's mode is cut by the umask
    except FileExistsError:
        pass  # somebody else made it just now
    except OSError as error:
        raise EnvironmentRefusedError(
            f"{path} cannot be made: {error.strerror}; name another place with --data-dir or AGGREGATOR_DATA_DIR"
        ) from None
    if not path.is_dir():
        raise EnvironmentRefusedError(f"{path} is not a directory; name another one with --data-dir")
    return path


def servers_home(data_dir: Path, account: Account) -> Path:
    """The directory that the servers live in: the data directory, if their account can reach it.

    Otherwise (root, whose /root is closed to others) one below /var/lib/aggregator, named after the data directory.
    A cluster that already lies in the data directory is not left behind: its place is kept.
    """
    if account.can_enter(data_dir) or (data_dir / "postgres" / "data").exists():
        return data_dir
    name = hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:12]
    return make_directory(ROOT_STATE_DIRECTORY / name, mode=PASSABLE)


def socket_directory(home: Path, account: Account, *, longest_name: str) -> Path:
    """A directory of the account's own, mode 700, in which a socket of that name has a path of legal length."""
    inside = home / "run"
    directory = inside if _fits(inside, longest_name) else _short_directory(home)
    make_directory(directory, mode=PRIVATE)
    if account.is_other and directory.lstat().st_uid == os.geteuid():
        account.own(directory)
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != account.user_id:
        raise EnvironmentRefusedError(f"{directory} belongs to another user; remove it, or use a shorter --data-dir")
    return directory


def remove_socket_directory(directory: Path, home: Path) -> None:
    """Remove a short directory that lies outside `home`, if it is empty."""
    if home not in directory.parents and directory != home:
        with contextlib.suppress(OSError):
            directory.rmdir()


def _fits(directory: Path, name: str) -> bool:
    return len(os.fsencode(directory / name)) <= SOCKET_PATH_BYTES


def _short_directory(home: Path) -> Path:
    name = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"aggregator-{os.geteuid()}-{name}"

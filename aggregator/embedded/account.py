"""The account that PostgreSQL runs as: it refuses root, so root starts it as `nobody`."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NOBODY_ID = 65_534


@dataclass(frozen=True)
class Account:
    """A user to run a process as. `is_other`: not the one that this process runs as."""

    user_id: int
    group_id: int
    is_other: bool

    @classmethod
    def of_this_process(cls) -> Account:
        """The user that this process runs as."""
        return cls(os.geteuid(), os.getegid(), is_other=False)

    def can_enter(self, directory: Path) -> bool:
        """Whether the account may pass through `directory` and every directory above it.

        Judged by permission bits alone: what an access control list adds is not counted on.
        """
        real = directory.resolve()
        return not self.is_other or all(self._may(path, read=False) for path in (real, *real.parents))

    def can_run(self, binary: Path) -> bool:
        """Whether the account may read and execute the file."""
        return not self.is_other or (self.can_enter(binary.parent) and self._may(binary, read=True))

    def _may(self, path: Path, *, read: bool) -> bool:
        status = path.stat()
        needed = 0o5 if read else 0o1
        if status.st_uid == self.user_id:
            needed <<= 6
        elif status.st_gid == self.group_id:
            needed <<= 3
        return status.st_mode & needed == needed

    def own(self, path: Path) -> None:
        """Give a file or directory that we made to the account."""
        if self.is_other:
            os.chown(path, self.user_id, self.group_id)


def server_account() -> Account:
    """This user; `nobody` where this user is root."""
    if os.geteuid() != 0:
        return Account.of_this_process()
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        return Account(_NOBODY_ID, _NOBODY_ID, is_other=True)
    return Account(nobody.pw_uid, nobody.pw_gid, is_other=True)


def user_name(user_id: int) -> str:
    """The name of a user, or its number where it has none."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"

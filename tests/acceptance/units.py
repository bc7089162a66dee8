"""What a systemd unit says, and running its command as the unit would: its environment, its system calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.machines import ROOT

FOLDER = ROOT / "deploy" / "systemd"
#: Where the command of an installation is, in the units.
INSTALLED = "/opt/aggregator/bin/"
SANDBOX = Path(__file__).with_name("unit_sandbox.py")


@dataclass(frozen=True)
class Unit:
    """The settings of one service; a setting that is given twice has both lines."""

    path: Path

    @property
    def settings(self) -> dict[str, list[str]]:
        """All lines of the file by the name of their setting."""
        found = defaultdict(list)
        for name, value in re.findall(r"^(\w+)=(.*)$", self.path.read_text(), re.MULTILINE):
            found[name].append(value)
        return found

    def one(self, name: str) -> str:
        """A setting that is given once."""
        (value,) = self.settings[name]
        return value

    def environment(self, *, state: Path, secrets: Path) -> dict[str, str]:
        """The variables that the unit sets, with the folders of a test in the place of systemd's own."""
        lines = (
            line.replace("%S/aggregator", str(state)).replace("%d", str(secrets))
            for line in self.settings["Environment"]
        )
        return dict(line.split("=", 1) for line in lines)

    def credentials(self) -> set[str]:
        """The names of the secrets that the unit is given."""
        return {line.partition(":")[0] for line in self.settings["LoadCredential"]}

    def command(self, *, bin_folder: Path) -> list[str]:
        """What starts the unit's own command inside of the unit's walls; those made of mounts need root."""
        words = self.one("ExecStart").split()
        assert words[0].startswith(INSTALLED), words
        program = str(bin_folder / words[0].removeprefix(INSTALLED))
        mounts = "mount --make-rslave /" + "".join(f" && {one}" for one in self._read_only_mounts())
        walls = [
            self.one("UMask"),
            " ".join(sorted(self._allowed_calls())),
            self.one("RestrictAddressFamilies"),
            self.settings["MemoryDenyWriteExecute"][0] if self.settings["MemoryDenyWriteExecute"] else "no",
        ]
        inside = [sys.executable, str(SANDBOX), *walls, program, *words[1:]]
        if os.geteuid() != 0:
            return inside
        return ["unshare", "--mount", "--propagation", "unchanged", "sh", "-c", f'{mounts} && exec "$@"', "sh", *inside]

    def _read_only_mounts(self) -> list[str]:
        """What the kernel's own file systems become; the options of the unit that change others are not mimicked."""
        places = {"ProtectKernelTunables": ["/proc/sys", "/sys"], "ProtectControlGroups": ["/sys/fs/cgroup"]}
        return [
            f"mount --rbind {place} {place} && mount -o remount,bind,ro {place}"
            for setting, found in places.items()
            for place in found
            if self.settings[setting] == ["yes"] and Path(place).is_dir()
        ]

    def _allowed_calls(self) -> set[str]:
        """The system calls that are left, as systemd itself expands its groups."""
        allowed: set[str] = set()
        for line in self.settings["SystemCallFilter"]:
            calls = {call for group in line.removeprefix("~").split() for call in _calls_of(group)}
            allowed = allowed - calls if line.startswith("~") else allowed | calls
        return allowed


def _calls_of(group: str) -> set[str]:
    if not group.startswith("@"):
        return {group}
    program = shutil.which("systemd-analyze")
    assert program
    listed = subprocess.run([program, "syscall-filter", group], capture_output=True, text=True, check=True, timeout=30)
    names = [line.strip() for line in listed.stdout.splitlines() if line.startswith(" ") and "#" not in line]
    return {call for name in names for call in _calls_of(name)}

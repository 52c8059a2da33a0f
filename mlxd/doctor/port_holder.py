"""Who listens on a port: /proc on Linux, lsof elsewhere. It looks, and never stops anybody."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class PortHolder:
    """`pid` is None when the process belongs to somebody else and cannot be seen."""

    pid: int | None
    command: str

    @property
    def is_mlxd(self) -> bool:
        """Whether it looks like one of ours: `mlxd serve`, by script or by `python -m mlxd`."""
        words = self.command.split()
        names = [Path(word).name for word in words]
        return "serve" in words and ("mlxd" in names or "-m mlxd" in self.command)

    def describe(self) -> str:
        if self.pid is None:
            return "a process of another user"
        return f"{'mlxd, ' if self.is_mlxd else ''}process {self.pid} ({self.command[:120]})"


def port_holder(port: int) -> PortHolder | None:
    """Who listens on a TCP port of this machine, None if nobody does."""
    return _from_proc(port) if sys.platform == "linux" else _from_lsof(port)


def _from_proc(port: int) -> PortHolder | None:
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(Path(f"/proc/self/net/{table}"), port)}
    if not inodes:
        return None
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _holds(process, inodes):
            return PortHolder(int(process.name), _command(process))
    return PortHolder(None, "")


def _listening(table: Path, port: int) -> list[str]:
    """Inodes of the sockets that listen on `port`: column 2 is address:port in hex, 4 the state, 10 the inode."""
    try:
        rows = [line.split() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return []
    return [row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port]


def _holds(process: Path, inodes: set[str]) -> bool:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    try:
        return any(str(link.readlink()) in wanted for link in (process / "fd").iterdir())
    except OSError:
        return False  # gone meanwhile, or not ours to look into


def _command(process: Path) -> str:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode(errors="replace") for word in words if word)


def _from_lsof(port: int) -> PortHolder | None:
    lsof = shutil.which("lsof") or "/usr/sbin/lsof"
    try:
        shown = subprocess.run(  # noqa: S603 - a number is all that varies
            [lsof, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fp"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    pids = [line[1:] for line in shown.stdout.splitlines() if line.startswith("p")]
    if not pids:
        return None
    command = ["/bin/ps", "-o", "command=", "-p", pids[0]]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - as above
    return PortHolder(int(pids[0]), listed.stdout.strip())

"""Which kind of disk a path lies on: SQLite's WAL and file locks need a local one with Unix permissions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REFUSED = {
    "nfs": "a network disk",
    "nfs4": "a network disk",
    "smbfs": "a network disk",
    "cifs": "a network disk",
    "smb3": "a network disk",
    "afpfs": "a network disk",
    "webdav": "a network disk",
    "davfs": "a network disk",
    "fuse.sshfs": "a network disk",
    "fuse.rclone": "a network disk",
    "fuse.s3fs": "a network disk",
    "vboxsf": "a folder of the virtual machine's host",
    "vfat": "a FAT disk, which has no permissions",
    "msdos": "a FAT disk, which has no permissions",
    "exfat": "a FAT disk, which has no permissions",
}
ESCAPE = re.compile(r"\\([0-7]{3})")
SYNCED = ("library/mobile documents", "library/cloudstorage")


def unsuitable(path: Path) -> str:
    """Why a state directory cannot lie at `path` (which need not exist), "" where it can."""
    real = path.resolve()
    if any(folder in str(real).lower() for folder in SYNCED):
        return "a folder that a cloud service synchronises"
    return REFUSED.get(kind_of_disk(real, _mounted()), "")


def kind_of_disk(path: Path, mounts: list[tuple[str, str]]) -> str:
    """The file-system type at `path`; `mounts` are (mount point, type), later ones covering earlier ones."""
    best = ("", "")
    for point, kind in mounts:
        if path.is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]


def parse_mounts(text: str) -> list[tuple[str, str]]:
    """Lines of /proc/self/mounts; its octal escapes (a space is `\\040`) are undone."""
    rows = [line.split(" ") for line in text.splitlines()]
    return [(ESCAPE.sub(lambda code: chr(int(code[1], 8)), row[1]), row[2]) for row in rows if len(row) > 2]


def parse_mount_command(text: str) -> list[tuple[str, str]]:
    """Lines of macOS's `mount`: `/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled)`."""
    rows = []
    for line in text.splitlines():
        left, _, options = line.rpartition(" (")
        _, _, point = left.partition(" on ")
        rows.append((point, options.split(",")[0].rstrip(")")))
    return rows


def _mounted() -> list[tuple[str, str]]:
    try:
        if sys.platform == "darwin":
            shown = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=2, check=True)
            return parse_mount_command(shown.stdout)
        return parse_mounts(Path("/proc/self/mounts").read_text())
    except (OSError, subprocess.SubprocessError):
        return []  # not knowing is no reason to refuse

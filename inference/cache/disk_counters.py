"""What the disk's tier counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class DiskCounters:
    """Since the start of the process; they only grow. `refused` and `dropped` are by reason.

    `read_back_bytes` are of files read for the first time since they were written or the process began. `shared_files`
    were wanted by several jobs at once and read for one of them.
    """

    written_files: int = 0
    written_bytes: int = 0
    read_files: int = 0
    read_bytes: int = 0
    read_back_bytes: int = 0
    read_tokens: int = 0
    shared_files: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def wrote(self, nbytes: int) -> None:
        self.written_files += 1
        self.written_bytes += nbytes

    def read(self, nbytes: int, tokens: int, *, again: bool) -> None:
        self.read_files += 1
        self.read_bytes += nbytes
        self.read_tokens += tokens
        self.read_back_bytes += 0 if again else nbytes

    @property
    def read_back_ratio(self) -> float:
        """Bytes that were any use by bytes written. Above 1 when much was read that an earlier process wrote."""
        return self.read_back_bytes / self.written_bytes if self.written_bytes else 0.0

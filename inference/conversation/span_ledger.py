"""What became of every volatile span of a request: nothing a client says is left out without a record of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Fate(StrEnum):
    """`kept`: read as sent, where it was sent. `pinned`: the form first seen was read in its place, or the same text
    where it stood before the client moved it. `restated`: an older value was read in its place, and the sent one at the
    end of what was new. `relocated`: a pointer was read in its place, and the text at the end of the first turn.
    `omitted`: telemetry, not read. `retained`: not sent any more, and still read."""

    KEPT = "kept"
    PINNED = "pinned"
    RESTATED = "restated"
    RELOCATED = "relocated"
    OMITTED = "omitted"
    RETAINED = "retained"


@dataclass(frozen=True, slots=True)
class Entry:
    """`sent` is what the client sent at `path` ("" when retained), `read` what the model read in its place."""

    rule: str
    path: str
    fate: Fate
    sent: str
    read: str


@dataclass(frozen=True, slots=True)
class SpanLedger:
    """`policy` names what was asked for, `refused` the rules that matched too much and were not applied.

    `limit_reached`: a whole message that the client dropped was left out, as enough of its kind are retained.
    """

    policy: str
    entries: tuple[Entry, ...] = ()
    refused: tuple[str, ...] = ()
    limit_reached: bool = False

    @property
    def counts(self) -> Mapping[str, int]:
        """How many spans met each fate."""
        return Counter(entry.fate.value for entry in self.entries)

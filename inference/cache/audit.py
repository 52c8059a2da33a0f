"""Which warm requests are worth computing once more from nothing, and in which order.

One in so many is chosen, and of those between two choices the one whose way through the store had most turns: read from
the disk, behind a recurrent state, quantised, through a window. The first request of each such class is chosen at once,
for what is wrong with a class is wrong with all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from secrets import randbelow
from typing import Final

from inference.params import CacheScope, KVQuantisation

WAITING: Final = 16
"""Cases kept until there is an idle moment: 4 bytes for each token of their prompts."""


class AuditKind(StrEnum):
    """What a row was assembled from, besides blocks that prefill and decode left in memory."""

    DISK = "disk"
    RECURRENT = "recurrent"
    QUANTISED = "quantised"
    WINDOW = "window"
    CUT = "cut"
    """It begins within a block."""


_WORTH: Final = {
    AuditKind.DISK: 16,
    AuditKind.RECURRENT: 8,
    AuditKind.QUANTISED: 4,
    AuditKind.WINDOW: 2,
    AuditKind.CUT: 1,
}
Kinds = frozenset[AuditKind]


@dataclass(frozen=True, slots=True)
class AuditCase:
    """The prompt of a request that began warm. What stands before `from_tokens` was found true already.

    `tries` counts how often it was given up for the sake of a request.
    """

    packed: bytes = field(repr=False)
    scope: CacheScope
    kv: KVQuantisation | None
    kinds: Kinds
    from_tokens: int = 0
    tries: int = 0

    @property
    def worth(self) -> int:
        return worth(self.kinds)

    def again(self) -> AuditCase:
        return replace(self, tries=self.tries + 1)

    def behind(self, tokens: int) -> AuditCase:
        """The rest of it."""
        return replace(self, from_tokens=tokens)


def worth(kinds: Kinds) -> int:
    return sum(_WORTH[kind] for kind in kinds)


class AuditQueue:
    """Cases of one model that wait for an idle moment. `every` 0 chooses none."""

    def __init__(self, every: int, chance: Callable[[int], int] = randbelow) -> None:
        self._every = every
        self._chance = chance
        self._waiting: list[AuditCase] = []
        self._known: set[Kinds] = set()
        self._best: AuditCase | None = None
        self._seen = 0
        self._alike = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, kinds: Kinds, make: Callable[[], AuditCase]) -> None:
        """A request has begun warm; `make` is called if it may be chosen."""
        if not self._every:
            return
        if kinds not in self._known:
            self._known.add(kinds)
            self.put(make())
            return
        self._seen += 1
        if self._is_better(kinds):
            self._best = make()
        if self._seen >= self._every and self._best is not None:
            self.put(self._best)
            self._best, self._seen, self._alike = None, 0, 0

    def _is_better(self, kinds: Kinds) -> bool:
        """Than the best so far; of several that are worth the same, each has the same chance."""
        if self._best is None or worth(kinds) > self._best.worth:
            self._alike = 1
            return True
        self._alike += worth(kinds) == self._best.worth
        return worth(kinds) == self._best.worth and not self._chance(self._alike)

    def put(self, case: AuditCase) -> None:
        """Behind those that are worth as much; when there are too many, the last goes."""
        self._waiting.append(case)
        self._waiting.sort(key=lambda one: -one.worth)
        del self._waiting[WAITING:]

    def take(self) -> AuditCase | None:
        return self._waiting.pop(0) if self._waiting else None

    def clear(self) -> None:
        self._waiting.clear()
        self._best = None

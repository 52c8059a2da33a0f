"""What the disk knows of a prompt and its session that memory does not: told to the lookup that says why it is cold."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from inference.cache.blocks import Root
from inference.cache.reuse import Query
from inference.tokens import TokenIds

_MOST: Final = 32
"""Of prompts between the disk's answer and their beginning: more do not come in at once."""


@dataclass(frozen=True, slots=True)
class Past:
    """A session as an earlier process left it. `root` is where its last request was; `reached`: the prompt has all of
    what that read. Of all it ever read, a prompt shares at most `shared` tokens, behind which `stored` stands.

    `unsure`: only a one-shot was ever seen of it.
    """

    root: Root
    unsure: bool
    reached: bool = False
    shared: int = 0
    stored: TokenIds = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Recollection:
    """The disk has the first `matched` tokens of a prompt, worth reading or not. `is_leaf`: nothing there begins so and
    goes on; `ends_here`: its session has ended there, whatever goes on. `past` is None for a session that is new.
    """

    matched: int
    is_leaf: bool
    ends_here: bool = False
    past: Past | None = None


class Recollections:
    """By prompt and session, until the prompt begins or something is removed."""

    def __init__(self) -> None:
        self._told: deque[tuple[Query, Recollection]] = deque(maxlen=_MOST)

    def put(self, query: Query, seen: Recollection) -> None:
        self.drop(query)
        self._told.append((query, seen))

    def of(self, query: Query) -> Recollection | None:
        return next((seen for other, seen in self._told if _same(query, other)), None)

    def drop(self, query: Query) -> None:
        """A prompt begins: what it adds is in memory from now on."""
        for told in [told for told in self._told if _same(query, told[0])]:
            self._told.remove(told)

    def clear(self) -> None:
        """What was read may be of what goes."""
        self._told.clear()


def _same(one: Query, other: Query) -> bool:
    return (one.session, one.root.key, one.packed) == (other.session, other.root.key, other.packed)

"""A queue that is fair between clients: round-robin over their keys, first come first served within one.

It knows nothing of requests, limits or threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, zip_longest


class FairQueue[Item]:
    """Items by key. Who was served last has its turn last."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Item]] = {}  # in turn order: the first key is next
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def waiting(self, key: str) -> int:
        return len(self._lines.get(key, ()))

    def push(self, key: str, item: Item) -> None:
        """Puts an item behind the others of its key; a new key has its turn after all that wait already."""
        self._lines.setdefault(key, deque()).append(item)
        self._size += 1

    def remove(self, key: str, item: Item) -> bool:
        """Takes an item that gives up its place; its key keeps its turn."""
        line = self._lines.get(key)
        if line is None or item not in line:
            return False
        line.remove(item)
        self._size -= 1
        if not line:
            del self._lines[key]
        return True

    def serve(self, key: str, item: Item) -> bool:
        """Takes an item that is served; its key goes to the end of the turn order."""
        if not self.remove(key, item):
            return False
        if key in self._lines:
            self._lines[key] = self._lines.pop(key)
        return True

    def __iter__(self) -> Iterator[Item]:
        """The order in which items would be served if nothing else came."""
        nothing = object()
        rounds = chain.from_iterable(zip_longest(*self._lines.values(), fillvalue=nothing))
        return (item for item in rounds if item is not nothing)  # type: ignore[misc]

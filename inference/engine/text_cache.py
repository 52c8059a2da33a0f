"""Ids of texts that were tokenised before."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from inference.tokens import TokenIds

_BYTES_PER_TOKEN: Final = 40
"""A tuple slot and an int of CPython."""


class TextCache:
    """Ids by text, least recently used out first, bounded by bytes: a conversation repeats all but its last turn."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._entries: OrderedDict[tuple[str, str], TokenIds] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, str], make: Callable[[], TokenIds]) -> TokenIds:
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found
        made = make()
        with self._lock:
            self._put(key, made)
        return made

    def holds(self, key: tuple[str, str]) -> bool:
        return key in self._entries

    @property
    def nbytes(self) -> int:
        return self._bytes

    def _put(self, key: tuple[str, str], ids: TokenIds) -> None:
        size = _entry_bytes(key, ids)
        if key in self._entries or size > self._max_bytes // 4:
            return
        self._entries[key] = ids
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._bytes -= _entry_bytes(*self._entries.popitem(last=False))


def _entry_bytes(key: tuple[str, str], ids: TokenIds) -> int:
    return 200 + 2 * len(key[1]) + _BYTES_PER_TOKEN * len(ids)

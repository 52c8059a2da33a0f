"""A sorted map of packed ids that finds the key with the longest common prefix in O(log n)."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from inference.cache.blocks import common_tokens


class PrefixMap[Value]:
    """In sorted order all keys that share a prefix stand together, so the best match is a neighbour of the place where
    the searched key would stand. A thousand conversations that part inside one block cost ten comparisons.
    """

    __slots__ = ("_keys", "_values")

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._values: dict[bytes, Value] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[Value]:
        return iter(self._values.values())

    def get(self, key: bytes) -> Value | None:
        return self._values.get(key)

    def set(self, key: bytes, value: Value) -> None:
        if key not in self._values:
            insort(self._keys, key)
        self._values[key] = value

    def pop(self, key: bytes) -> Value:
        """Raises `KeyError` when it is not there."""
        value = self._values.pop(key)
        del self._keys[bisect_left(self._keys, key)]
        return value

    def nearest(self, key: bytes, but: bytes | None = None) -> tuple[Value | None, int]:
        """The value whose key shares most tokens with `key`, and how many; (None, 0) when none shares any.

        `but` is left out: `key` itself, or what it begins with, if no other key begins with that.
        """
        at = bisect_left(self._keys, key)
        best, most = None, 0
        for neighbour in self._keys[max(0, at - (1 if but is None else 2)) : at + (1 if but is None else 2)]:
            if neighbour != but and (common := common_tokens(neighbour, key)) > most:
                best, most = self._values[neighbour], common
        return best, most

    def begins_with(self, prefix: bytes) -> bool:
        """Whether some key begins with `prefix`."""
        at = bisect_left(self._keys, prefix)
        return at < len(self._keys) and self._keys[at].startswith(prefix)

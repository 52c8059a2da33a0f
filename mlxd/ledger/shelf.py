"""The spoken turns on the disk, found by their places.

Nearly all places that are looked for are not there: a conversation of another server has hundreds. A Bloom filter says
so without the disk.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Final

from django.db import connection

from inference.conversation.healing import MAX_TWINS
from inference.conversation.spoken import SpokenTurn
from mlxd.ledger.sealed import Unreadable
from mlxd.ledger.spoken_bytes import decoded

FILTER_BITS: Final = 1 << 23
"""A megabyte: of a hundred thousand turns' strangers, one in two hundred thousand is asked of the disk."""
SLICE_BYTES, SLICES = 4, 4


class Shelf:
    """`add` and `may_hold` are for any thread; the others block."""

    def __init__(self) -> None:
        self._filter = bytearray(FILTER_BITS // 8)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[str, int]:
        """`looked_up` places and `found` ones since the start, and rows that could not be read, by their reasons."""
        with self._lock:
            return dict(self._counts)

    def count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    def load(self) -> None:
        """Learns what is there."""
        with connection.cursor() as cursor:
            for (place,) in cursor.execute("SELECT place FROM ledger_spoken"):
                self.add(place)

    def add(self, place: bytes) -> None:
        with self._lock:
            for bit in _bits(place):
                self._filter[bit >> 3] |= 1 << (bit & 7)

    def may_hold(self, place: bytes) -> bool:
        """False: there is no turn at this place."""
        return all(self._filter[bit >> 3] >> (bit & 7) & 1 for bit in _bits(place))

    def turns(self, place: bytes) -> tuple[SpokenTurn, ...]:
        """The newest turns of a place, the latest last; those that cannot be read are counted."""
        if not self.may_hold(place):
            return ()
        with connection.cursor() as cursor:
            query = "SELECT body FROM ledger_spoken WHERE place = %s ORDER BY at DESC LIMIT %s"
            bodies = cursor.execute(query, [place, MAX_TWINS]).fetchall()
        self.count("looked_up")
        read = dict.fromkeys(turn for (body,) in bodies if (turn := self._read(body, place)) is not None)
        if read:
            self.count("found")
        return tuple(reversed(read))

    def newest(self, limit: int) -> Iterator[bytes]:
        """Places, the one that was spoken at last first."""
        with connection.cursor() as cursor:
            rows = cursor.execute("SELECT place FROM ledger_spoken ORDER BY at DESC LIMIT %s", [limit]).fetchall()
        yield from dict.fromkeys(bytes(place) for (place,) in rows)

    def _read(self, body: bytes, place: bytes) -> SpokenTurn | None:
        turn = decoded(bytes(body), place)
        if isinstance(turn, Unreadable):
            self.count(turn.value)
            return None
        return turn


def _bits(place: bytes) -> Iterator[int]:
    """A place is a digest: any part of it is as good as a hash of it."""
    for at in range(0, SLICE_BYTES * SLICES, SLICE_BYTES):
        yield int.from_bytes(place[at : at + SLICE_BYTES]) % FILTER_BITS

"""The bytes of all blocks, each part counted once however many blocks hold it.

Siblings that begin alike hold their beginning in the same parts. A part belongs to the conversations from the moment
that one of them holds it until it goes: so whoever takes a part over finds room for it first, and nobody's leaving can
fill the budget of those who stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inference.cache.blocks import BlockPart
from inference.cache.node import Admission


@dataclass(slots=True)
class Share:
    """How many blocks hold a part, and whose budget it lives in."""

    holders: int
    admission: Admission


class PartTally:
    """`nbytes` by class of admission."""

    def __init__(self) -> None:
        self.nbytes = dict.fromkeys(Admission, 0)
        self._shares: dict[BlockPart, Share] = {}

    @property
    def shares(self) -> Mapping[BlockPart, Share]:
        """Every part that some block holds."""
        return self._shares

    def growth(self, parts: Sequence[BlockPart], admission: Admission, instead_of: Sequence[BlockPart] = ()) -> int:
        """Bytes that a class gains (or loses, below 0) when a block of it holds `parts` in the place of others."""
        more = sum(part.nbytes for part in parts if self._is_new(part, admission))
        left = (part for part in instead_of if part not in parts and self._shares[part].holders == 1)
        return more - sum(part.nbytes for part in left if self._shares[part].admission is admission)

    def _is_new(self, part: BlockPart, admission: Admission) -> bool:
        share = self._shares.get(part)
        return share is None or (admission is Admission.MAIN and share.admission is not admission)

    def take(self, parts: Iterable[BlockPart], admission: Admission) -> None:
        """A block of that class holds them from now on."""
        for part in parts:
            if (share := self._shares.get(part)) is None:
                share = self._shares[part] = Share(0, admission)
                self.nbytes[admission] += part.nbytes
            share.holders += 1
            if admission is Admission.MAIN:
                self._promote(part)

    def drop(self, parts: Iterable[BlockPart]) -> int:
        """A block lets go of them; the bytes of those that nobody holds any more."""
        freed = 0
        for part in parts:
            share = self._shares[part]
            share.holders -= 1
            if not share.holders:
                del self._shares[part]
                self.nbytes[share.admission] -= part.nbytes
                freed += part.nbytes
        return freed

    def split(self, part: BlockPart, pieces: Iterable[BlockPart]) -> None:
        """All who held a part hold its pieces instead."""
        share = self._shares.pop(part)
        self.nbytes[share.admission] -= part.nbytes
        for piece in pieces:
            self._shares[piece] = Share(share.holders, share.admission)
            self.nbytes[share.admission] += piece.nbytes

    def promote(self, parts: Iterable[BlockPart]) -> None:
        """Conversations hold what one-shots did."""
        for part in parts:
            self._promote(part)

    def _promote(self, part: BlockPart) -> None:
        share = self._shares[part]
        self.nbytes[share.admission] -= part.nbytes
        share.admission = Admission.MAIN
        self.nbytes[share.admission] += part.nbytes

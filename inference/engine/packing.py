"""Many small arrays in few device buffers.

A block of a 64-layer model is 128 arrays; kept apart, a cache of a million tokens would be half a million buffers, and
Metal refuses to hold more than 499,000 in one process. Arrays of like shape and type are therefore laid one behind
the other in one buffer: most models need one for a block, none needs more than a few.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx

_ABSENT = -1


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Arrays (1, ...) in order, as stacks (n, ...). `places` names the stack of each; -1 stands for None.

    `arrays` are views of the stacks, made once: making them at each use took a sixth of assembling a row. Nothing
    writes into either.
    """

    stacks: tuple[mx.array, ...]
    places: tuple[int, ...]
    arrays: tuple[mx.array | None, ...]

    @property
    def nbytes(self) -> int:
        return sum(int(stack.nbytes) for stack in self.stacks)

    def wait(self) -> None:
        """Computes everything, after which any thread may read it."""
        mx.eval(*self.stacks, *(array for array in self.arrays if array is not None))


def packed(stacks: Sequence[mx.array], places: Sequence[int]) -> Packed:
    """The record of stacks that exist. Unevaluated."""
    parts = [iter(mx.split(stack, stack.shape[0])) for stack in stacks]
    arrays = tuple(None if place == _ABSENT else next(parts[place]) for place in places)
    return Packed(tuple(stacks), tuple(places), arrays)


def pack(arrays: Iterable[mx.array | None]) -> Packed:
    """Copies arrays with a leading axis of 1 into stacks, unevaluated. Nothing of the originals' buffers is kept."""
    groups: dict[tuple[object, ...], tuple[int, list[mx.array]]] = {}
    places = []
    for array in arrays:
        if array is None:
            places.append(_ABSENT)
            continue
        place, members = groups.setdefault((*array.shape, array.dtype), (len(groups), []))
        members.append(array)
        places.append(place)
    return packed([_stack(members) for _, members in groups.values()], places)


def copied(stacks: Sequence[mx.array], places: Sequence[int]) -> Packed:
    """As `packed`, of copies that keep nothing of the originals' buffers."""
    return packed([mx.contiguous(stack) for stack in stacks], places)


def along_tokens(parts: Sequence[Packed]) -> Packed:
    """Parts of one layout, joined on the token axis (the third) into one, unevaluated."""
    stacks = zip(*(part.stacks for part in parts), strict=True)
    return packed([mx.concatenate(list(stack), axis=2) for stack in stacks], parts[0].places)


def _stack(members: list[mx.array]) -> mx.array:
    """Joining several always copies. One alone is copied unless it is its whole buffer already."""
    return mx.contiguous(members[0]) if len(members) == 1 else mx.concatenate(members, axis=0)

"""What waits to be written, each block behind those before it, and who wants to know when it is.

It locks nothing: whoever uses it holds the lock of the disk's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from inference.cache.disk_records import BlockLabel, Handle

PATIENCE_S: Final = 1.0
"""A barrier that is older says that the disk hangs: nobody else waits for it."""


@dataclass(slots=True, eq=False)
class Waiting:
    """`jobs` are those whose path goes through it."""

    label: BlockLabel
    handle: Handle = field(repr=False)
    first_to_go: bool
    jobs: set[str]


@dataclass(slots=True, eq=False)
class _Barrier:
    keys: set[bytes]
    future: Future[None]
    since_s: float


class SaveQueue:
    """`nbytes` of memory are held by it, at most `most_bytes` but for what is put in the place of something."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.nbytes = 0
        self._waiting: OrderedDict[bytes, Waiting] = OrderedDict()
        self._barriers: list[_Barrier] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: bytes) -> bool:
        return key in self._waiting

    def __iter__(self) -> Iterator[Waiting]:
        return iter(tuple(self._waiting.values()))

    @property
    def labels(self) -> list[BlockLabel]:
        return [waiting.label for waiting in self._waiting.values()]

    def get(self, key: bytes) -> Waiting | None:
        return self._waiting.get(key)

    def fits(self, nbytes: int) -> bool:
        """One that is larger than all of the room still has its turn."""
        return not self._waiting or self.nbytes + nbytes <= self.most_bytes

    def put(self, waiting: Waiting) -> None:
        """At the end, or in the place of one of the same key."""
        if (before := self._waiting.get(waiting.label.key)) is not None:
            self.nbytes -= before.handle.nbytes
            waiting.jobs |= before.jobs
        self._waiting[waiting.label.key] = waiting
        self.nbytes += waiting.handle.nbytes

    def first(self) -> Waiting:
        return next(iter(self._waiting.values()))

    def remove(self, key: bytes) -> None:
        """It was written, or will not be."""
        if (waiting := self._waiting.pop(key, None)) is None:
            return
        self.nbytes -= waiting.handle.nbytes
        for barrier in self._barriers:
            barrier.keys.discard(key)
        self._open(lambda barrier: not barrier.keys)

    def drop(self, keys: Iterable[bytes]) -> None:
        """None of them will be written."""
        for key in keys:
            self.remove(key)

    def drop_those_of(self, root: bytes | None, model: str) -> None:
        """Nothing of a tree (None: of any) and a model ("": of any) will be written."""
        of_root = [label for label in self.labels if root is None or label.root == root]
        self.drop(label.key for label in of_root if not model or label.model == model)

    # --- barriers -----------------------------------------------------------------------------------------------

    @property
    def is_urgent(self) -> bool:
        """Whether somebody waits for what comes first."""
        return bool(self._barriers)

    def barrier(self, jobs: Collection[str]) -> Future[None]:
        """Is done when nothing of these jobs waits any more. It comes first from now on."""
        future: Future[None] = Future()
        keys = [key for key, waiting in self._waiting.items() if not waiting.jobs.isdisjoint(jobs)]
        hangs = any(monotonic() - barrier.since_s > PATIENCE_S for barrier in self._barriers)
        if not keys or hangs:
            future.set_result(None)
            return future
        for key in reversed(keys):
            self._waiting.move_to_end(key, last=False)
        self._barriers.append(_Barrier(set(keys), future, monotonic()))
        return future

    def close(self) -> None:
        """Nothing is written any more: nobody is to wait for it."""
        self._open(lambda _: True)

    def _open(self, is_done: Callable[[_Barrier], bool]) -> None:
        done = [barrier for barrier in self._barriers if is_done(barrier)]
        self._barriers = [barrier for barrier in self._barriers if barrier not in done]
        for barrier in done:
            with suppress(InvalidStateError):  # whoever asked is gone
                barrier.future.set_result(None)

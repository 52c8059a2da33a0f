"""Saved conversations as the worker's thread sees them: what memory knows of one, and how one comes back.

It comes back the way a request's blocks do, by asking for the tokens that it holds, a step at a time: so requests that
wait for the disk meanwhile wait for one step at most, and every byte is checked as always.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Final

from inference.cache import saved_work
from inference.cache.archive_take import take_in_batch
from inference.cache.blocks import BLOCK_TOKENS, token_count, token_slice, unpack
from inference.cache.disk_records import KEY_BYTES, label_of, state_label_of
from inference.cache.disk_thread import DiskThread
from inference.cache.node import Node, Snapshot
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import Reuse
from inference.cache.saved_work import Gathered, Recall, Steps, Wish
from inference.cache.sessions import Session
from inference.cache.states import states_on
from inference.prefix_store import Recalled, Recalling, Refused, SavedConversation, SavedTotals, Taken

STEP_TOKENS: Final = 64 * BLOCK_TOKENS
"""Read at a time: for about so long a request may have to wait for it."""
_STATES_OF_END: Final = 2


class SavedOnDisk:
    """Implements `SavedConversations`. `now_s` is Unix time."""

    def __init__(self, cache: PrefixCache, thread: DiskThread, now_s: Callable[[], float] = time.time) -> None:
        self._cache = cache
        self._thread = thread
        self._now_s = now_s

    def save(self, name: str, owner: str, told: str, title: str | None) -> Future[SavedConversation | Refused | None]:
        session = self._cache.books.sessions.get(name)
        gathered = None if session is None else gather(session)
        wish = Wish(name, owner, told, title)
        return self._thread.ask(lambda store: saved_work.save(store, wish, gathered, self._now_s()))

    def recall(self, name: str, owner: str) -> Future[Recalling | None]:
        return self._thread.ask(lambda store: self._recalling(saved_work.recall(store, name, owner)))

    def _recalling(self, steps: Steps[Recall | None]) -> Steps[Recalling | None]:
        found = yield from steps
        return None if found is None else RecallingFromDisk(self._cache, self._thread, found)

    def delete(self, name: str, owner: str) -> Future[int | None]:
        return self._thread.ask(lambda store: saved_work.delete(store, name, owner))

    def totals(self, owner: str) -> Future[SavedTotals]:
        return self._thread.ask(lambda store: saved_work.totals(store, owner))

    def take_in(self, batch: str) -> Future[Taken]:
        return self._thread.ask(lambda store: take_in_batch(store, batch))


def gather(session: Session) -> Gathered:
    """All blocks of a session in memory, each behind those before it, and the states near its ends."""
    nodes: dict[Node, None] = {}
    states: dict[Snapshot, None] = {}
    for entry in session.ways:
        if entry.attached and entry.root.key == session.root.key:
            path = [*reversed(list(entry.upwards()))]
            nodes |= dict.fromkeys(path)
            states |= dict.fromkeys(states_on(path)[-_STATES_OF_END:])
    blocks = [(label_of(node), node.handle) for node in nodes if node.handle is not None]
    return Gathered(
        session.root,
        [*blocks, *((state_label_of(held), held.handle) for held in states)],
        (session.end[:KEY_BYTES],),
    )


class RecallingFromDisk:
    """Implements `Recalling`."""

    def __init__(self, cache: PrefixCache, thread: DiskThread, recall: Recall) -> None:
        self._cache = cache
        self._thread = thread
        self._recall = recall
        self._job = f"recall {recall.saved.name} {id(self):x}"
        self._asking = self._parts()
        self._goal = (b"", 0)

    @property
    def saved(self) -> SavedConversation:
        return self._recall.saved

    def step(self) -> Future[None] | None:
        self._cache.is_reading(self._job)
        for way, tokens in self._asking:
            reuse = self._found(way, tokens)
            if (
                reuse.depth_tokens < tokens
                and self._goes_on(way, reuse, tokens)
                and self._cache.read_ahead(reuse, self._job)
            ):
                return self._thread.ask(saved_work.nothing)
        return None

    def _goes_on(self, way: bytes, reuse: Reuse, tokens: int) -> bool:
        """False where the last step along a way did not come to its end: memory is full, or a file was broken."""
        before, goal_tokens = self._goal
        self._goal = way, tokens
        return before is not way or reuse.kv_depth_tokens >= goal_tokens

    def end(self) -> Future[Recalled]:
        """The session goes on at the end of the way that reaches furthest."""
        self._cache.is_reading(self._job)
        found = [self._found(way, token_count(way)) for way in self._recall.ways]
        ends = {node: min(node.end, reuse.depth_tokens) for reuse in found for node in reuse.nodes}
        warm_tokens = sum(end - node.start for node, end in ends.items())
        books, name = self._cache.books, self.saved.name
        if books.sessions.get(name) is None:
            for reuse in sorted(found, key=lambda one: one.depth_tokens):
                if reuse.nodes:
                    books.sessions.seen(name, self._recall.root, reuse.nodes[-1].last_used_s)
                    books.sessions.ended(name, reuse.nodes[-1])
        return self._thread.ask(lambda store: saved_work.lost(store, self.saved, warm_tokens))

    def _parts(self) -> Iterator[tuple[bytes, int]]:
        for way in self._recall.ways:
            for tokens in range(STEP_TOKENS, token_count(way), STEP_TOKENS):
                yield way, tokens
            yield way, token_count(way)

    def _found(self, way: bytes, tokens: int) -> Reuse:
        """What memory has of the first tokens of a way; recurrent states count at its end only."""
        ids = (*unpack(token_slice(way, 0, tokens)), 0)  # the last of a prompt is always computed
        needs_state = self._recall.needs_state and tokens == token_count(way)
        return self._cache.lookup(self._recall.root, ids, needs_snapshot=needs_state)

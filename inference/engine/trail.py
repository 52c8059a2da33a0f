"""What one row takes from the store and leaves in it.

A trail follows a row from its first computed token to its last: every block is copied out when it is complete and
committed at once, the unfinished one at the end of the prompt (a twin may follow at once) and of the answer. A block
is exact when all of its path was computed by prefill on the grid, as a cold run would have done it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import mlx.core as mx

from inference.cache.planner import snapshot_depths
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import Lease, ReuseMode
from inference.engine.blocks import KVBlock, StoreNeeds, cut
from inference.engine.kv import KVState
from inference.engine.recorder import BlockRecorder
from inference.engine.settings import GRID_TOKENS
from inference.engine.snapshots import RecurrentSnapshot, snapshot
from inference.tokens import Prompt, TokenIds

log = logging.getLogger(__name__)


class Trail:
    """One row's. `stored_tokens` of its sequence are in the store; `cuts` are where prefill has to stop.

    Whatever goes wrong in here costs the row its place in the store and nothing else. A trail that is `over` copies
    nothing any more: it failed, or a block found no room and nothing can be stored behind a gap.
    """

    def __init__(self, cache: PrefixCache, lease: Lease, needs: StoreNeeds, prompt: Prompt) -> None:
        reuse = lease.reuse
        depth = reuse.depth_tokens
        self._cache = cache
        self._lease = lease
        self._needs = needs
        self._prompt = prompt
        last: KVBlock | None = reuse.handles[-1] if depth % GRID_TOKENS else None  # type: ignore[assignment]
        self._recorder = BlockRecorder(needs.every_tokens, depth, None if last is None else cut(last, depth))
        self._next_block = depth // GRID_TOKENS
        self._exact = depth % GRID_TOKENS == 0 and all(node.exact for node in reuse.nodes)
        self.stored_tokens = depth
        self.over = False
        self.cuts: tuple[int, ...] = ()
        self.plan(())

    def plan(self, waiting: tuple[int, ...]) -> None:
        """Decides where recurrent states are kept; others wait for the depths `waiting`."""
        if self._needs.snapshots:
            reuse = self._lease.reuse
            self.cuts = snapshot_depths(
                self._prompt,
                self._recorder.offset,
                reuse.kv_depth_tokens,
                opener_tokens=self._prompt.opener_tokens,
                last_user_message=self._prompt.last_user_message,
                waiting=waiting,
                on_grid=reuse.query.mode is ReuseMode.BITWISE,
            )

    # --- prefill ------------------------------------------------------------------------------------------------

    def computed(self, state: KVState, end: int) -> None:
        """A piece of the prompt up to `end` is in the state: commits the blocks it completes and what is planned."""

        def work() -> None:
            if end % GRID_TOKENS:
                self._exact = False  # this piece is shorter than a cold run's, and what follows begins off the grid
            blocks = self._recorder.record(state, end)
            self._commit(self._prompt.ids, blocks, snapshot(state, end) if end in self.cuts else None)

        self._guard(work)

    def read(self) -> None:
        """The prompt, perhaps but for its last token, is in the state: a twin may have all of it."""
        self._guard(lambda: self._commit(self._prompt.ids, [], None, tail=True))

    # --- decode -------------------------------------------------------------------------------------------------

    def is_due(self, length: int) -> bool:
        """Whether a row of this length must be recorded now: a block is full, or a window is about to move on."""
        return not self.over and length >= self._recorder.due_at

    def drew(self, state: KVState, row: int, ids: TokenIds) -> None:
        """Commits what is complete of a row that has read `ids`; `row` is its place in the lane's state."""

        def work() -> None:
            self._exact = False
            self._commit(ids, self._recorder.record(state, len(ids), row), None)

        self._guard(work)

    def ended(self, state: KVState, row: int, ids: TokenIds) -> None:
        """Commits all that a row has read, and ends the lease."""

        def work() -> None:
            self._exact = False
            blocks = self._recorder.record(state, len(ids), row)
            taken = snapshot(state, len(ids), row) if self._needs.snapshots else None
            self._commit(ids, blocks, taken, tail=True)

        self._guard(work)
        self.release()

    # --- the end ------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Ends the lease; what was committed stays."""
        _give_back(self._cache.release(self._lease))

    def discard(self) -> None:
        """Ends the lease of a row that cannot be trusted: what it committed goes."""
        self._cache.discard(self._lease)
        mx.clear_cache()

    def _guard(self, work: Callable[[], None]) -> None:
        if self.over:
            return
        try:
            work()
        except Exception as error:
            log.error("a row could not be stored: %s", type(error).__name__)
            self.over = True
            self.discard()

    def _commit(
        self, ids: TokenIds, blocks: list[KVBlock], taken: RecurrentSnapshot | None, *, tail: bool = False
    ) -> None:
        rest = self._recorder.tail() if tail or taken is not None else None
        handles = [*blocks, *([rest] if rest is not None else [])]
        if not handles and taken is None:
            return
        done = self._cache.commit(
            self._lease, ids, self._next_block, handles, () if taken is None else (taken,), exact=self._exact
        )
        self._next_block += len(blocks)
        if done.refused_tokens:
            self.over = True
        elif handles:
            self.stored_tokens = handles[-1].end
        _give_back(done.evicted)


def _give_back(evicted: tuple[object, ...]) -> None:
    """Frees the buffers of evicted blocks, once for a whole batch."""
    if evicted:
        mx.clear_cache()

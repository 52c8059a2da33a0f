"""Follows one row and hands out its blocks as they complete.

It copies each token once: whole blocks where a row's state still holds them whole, parts where a window would
overwrite them first, joined when the block is full.
"""

from __future__ import annotations

from inference.engine.blocks import KVBlock, block_end, capture, join
from inference.engine.kv import KVState
from inference.engine.kv_columns import KVMismatch
from inference.engine.settings import GRID_TOKENS


class BlockRecorder:
    """`offset`: how many tokens the row begins with. Inside of a block, `begun` is the part it was assembled from."""

    def __init__(self, every_tokens: int, offset: int = 0, begun: KVBlock | None = None) -> None:
        if (begun.end if begun else offset) != offset or (offset % GRID_TOKENS > 0) != (begun is not None):
            raise KVMismatch(f"A row of {offset} tokens does not begin with that part of a block.")
        self._every_tokens = every_tokens
        self._parts = [begun] if begun else []
        self.offset = offset

    @property
    def due_at(self) -> int:
        """The row's length at which `record` has to be called at the latest."""
        return min(block_end(self.offset), self.offset + self._every_tokens)

    def record(self, state: KVState, end: int, row: int = 0) -> list[KVBlock]:
        """Captures up to `end`; returns the blocks that are complete with it, which the recorder then forgets.

        In prefill to be called behind every piece, in decode whenever a row is `due_at` and when it ends. Raises
        `KVMismatch` as `capture` does, and has then recorded nothing of the block in question.
        """
        done = []
        while self.offset < end:
            stop = min(end, block_end(self.offset))
            self._parts.append(capture(state, self.offset, stop, row))
            self.offset = stop
            if stop % GRID_TOKENS == 0:
                done.append(join(self._parts))
                self._parts = []
        return done

    def tail(self) -> KVBlock | None:
        """What is recorded beyond the last complete block."""
        return join(self._parts) if self._parts else None

"""Drives a prefix cache with rows whose KV is a record of what it was computed from, and checks every answer.

The oracle is a plain dictionary: every sequence ever committed, with brute-force comparison. It knows no blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile

from inference.cache.blocks import BLOCK_TOKENS, Root, common_tokens, token_count
from inference.cache.limits import CacheLimits
from inference.cache.node import Admission
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import Lease, Reuse, ReuseMode
from inference.cache.verdict import VerdictName
from inference.tokens import TokenIds

LOST = {VerdictName.EVICTED, VerdictName.EXPIRED, VerdictName.CLEARED}


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """KV of some tokens that remembers the model, every token before its end and how it was made."""

    root: Root
    prefix: TokenIds
    start: int
    exact: bool
    by: str
    bytes_per_token: int

    @property
    def tokens(self) -> int:
        return len(self.prefix) - self.start

    @property
    def nbytes(self) -> int:
        return self.tokens * self.bytes_per_token

    def split(self, at: int) -> tuple[Piece, Piece]:
        return replace(self, prefix=self.prefix[:at]), replace(self, start=at)


@dataclass(frozen=True, slots=True)
class KV:
    """KV of one block, made in one piece."""

    root: Root
    prefix: TokenIds
    start: int
    exact: bool
    by: str = ""
    bytes_per_token: int = 10
    parts: tuple[Piece, ...] = ()

    def __post_init__(self) -> None:
        if not self.parts:
            whole = Piece(self.root, self.prefix, self.start, self.exact, self.by, self.bytes_per_token)
            object.__setattr__(self, "parts", (whole,))

    @property
    def tokens(self) -> int:
        return len(self.prefix) - self.start

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def parted(self, tokens: int) -> KV:
        at = self.start + tokens
        assert self.start < at < len(self.prefix)
        if any(part.start == at for part in self.parts):
            return self
        pieces = [part.split(at) if part.start < at < len(part.prefix) else (part,) for part in self.parts]
        return replace(self, parts=tuple(piece for some in pieces for piece in some))

    def sharing(self, other: KV, tokens: int) -> KV:
        """Whether the tokens are the same is for the laws to find out."""
        at = self.start + tokens
        assert any(len(part.prefix) == at for part in other.parts)
        first = [part for part in other.parts if len(part.prefix) <= at]
        return replace(self, parts=(*first, *(part for part in self.parted(tokens).parts if part.start >= at)))


@dataclass(frozen=True, slots=True)
class State:
    root: Root
    prefix: TokenIds
    by: str = ""
    nbytes: int = 500

    @property
    def depth(self) -> int:
        return len(self.prefix)


@dataclass(slots=True, eq=False)
class RowOfTest:
    lease: Lease
    root: Root
    ids: TokenIds
    computed: int
    exact: bool
    committed: int = 0
    orphan: bool = False


def common(one: TokenIds, other: TokenIds) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _depends_on(root: Root) -> tuple[str, str, bytes]:
    return root.weights, root.settings, root.salt


@dataclass
class Driver:
    """One cache, its running rows, its oracle and its clock. With `exact` False no row is ever exact."""

    limits: CacheLimits
    exact: bool = True
    now_s: float = 100.0
    rows: list[RowOfTest] = field(default_factory=list)
    ever: dict[Root, set[TokenIds]] = field(default_factory=dict)
    states: set[tuple[Root, TokenIds]] = field(default_factory=set)
    history: list[TokenIds] = field(default_factory=list)
    aborted: set[str] = field(default_factory=set)
    discarded: bool = False
    refused: bool = False

    def __post_init__(self) -> None:
        self.cache = PrefixCache(self.limits, lambda: self.now_s)

    # --- acts ---------------------------------------------------------------------------------------------------

    def start(
        self,
        root: Root,
        ids: TokenIds,
        *,
        needs_snapshot: bool = False,
        mode: ReuseMode = ReuseMode.TOKEN,
        session: str = "",
        admission: Admission = Admission.MAIN,
    ) -> RowOfTest:
        self.now_s += 1
        reuse = self.cache.lookup(root, ids, needs_snapshot=needs_snapshot, mode=mode, session=session)
        self.check_reuse(reuse, root, ids)
        lease = self.cache.hold(reuse, f"r{len(self.history)}", admission)
        assert lease.reuse is reuse
        row = RowOfTest(lease, root, ids, reuse.depth_tokens, mode is ReuseMode.BITWISE or not reuse.depth_tokens)
        row.committed = reuse.depth_tokens
        self.rows.append(row)
        self.history.append(ids)
        return row

    def compute(self, row: RowOfTest, tokens: int, *, decode: bool = False, tail: bool = True, state: int = 0) -> None:
        """Computes tokens (drawing new ones behind the prompt) and commits blocks, maybe a tail and a snapshot.

        `state` counts back from the end of what is committed.
        """
        self.now_s += 1
        end = row.computed + tokens
        if end > len(row.ids):
            row.ids += tuple(7 + (row.computed + i) % 5 for i in range(end - len(row.ids)))
            decode = True
        first = row.committed // BLOCK_TOKENS * BLOCK_TOKENS
        stop = end if tail else max(end // BLOCK_TOKENS * BLOCK_TOKENS, row.committed)
        made_exact = row.exact and not decode and self.exact
        row.computed = end
        row.exact = made_exact and end % BLOCK_TOKENS == 0
        starts = range(first, stop, BLOCK_TOKENS) if stop > row.committed else ()
        by = row.lease.request_id
        handles = [KV(row.root, row.ids[: min(at + BLOCK_TOKENS, stop)], at, made_exact, by) for at in starts]
        depth = stop - state
        states = [State(row.root, row.ids[:depth], by)] if state >= 0 and stop > row.committed and depth > 0 else []
        done = self.cache.commit(row.lease, row.ids, first // BLOCK_TOKENS, handles, states, exact=made_exact)
        if handles:
            row.committed = stop
            self._note(row, handles, states, done.refused_tokens)
        for evicted in done.evicted:
            assert evicted.by == row.lease.request_id

    def _note(self, row: RowOfTest, handles: list[KV], states: list[State], refused: int) -> None:
        stored = sum(handle.tokens for handle in handles) - refused
        if refused:
            self.refused = True
            row.orphan = True
        if stored:
            self.ever.setdefault(row.root, set()).add(row.ids[: handles[0].start + stored])
        self.states |= {(row.root, state.prefix) for state in states}

    def finish(self, row: RowOfTest) -> None:
        self.rows.remove(row)
        self.history.append(row.ids)
        self.cache.release(row.lease)

    def abort(self, row: RowOfTest) -> None:
        self.rows.remove(row)
        self.discarded = True
        self.aborted.add(row.lease.request_id)
        self.cache.discard(row.lease)
        for other in self.rows:
            other.orphan |= not other.lease.tip.attached

    def clear(self, root: Root) -> None:
        self.cache.clear(root)
        for row in self.rows:
            row.orphan |= not row.lease.tip.attached

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.cache.sweep()

    # --- laws ---------------------------------------------------------------------------------------------------

    def check_reuse(self, reuse: Reuse, root: Root, ids: TokenIds) -> None:
        depth = reuse.depth_tokens
        assert depth <= max(0, len(ids) - 1), "a token must be left to compute"
        assert sum(handle.tokens for handle in reuse.handles[:-1]) == BLOCK_TOKENS * max(0, len(reuse.handles) - 1)
        assert len(reuse.handles) == -(-depth // BLOCK_TOKENS)
        for index, handle in enumerate(reuse.handles):
            assert isinstance(handle, KV)
            at, end = index * BLOCK_TOKENS, min(depth, BLOCK_TOKENS * (index + 1))
            for part in handle.parts:
                assert _depends_on(part.root) == _depends_on(root), "KV of another model"
                assert part.start == at < len(part.prefix), "a part is missing"
                at = len(part.prefix)
                assert part.prefix[: min(at, end)] == ids[: min(at, end)], "KV of other tokens"
                assert part.exact or reuse.query.mode is ReuseMode.TOKEN, "inexact KV in a bitwise run"
            assert at >= end
        self._check_depth(reuse, root, ids)

    def _check_depth(self, reuse: Reuse, root: Root, ids: TokenIds) -> None:
        most = max((common(ids[:-1], known) for known in self.ever.get(root, ())), default=0)
        verdict = reuse.verdict
        assert reuse.depth_tokens <= reuse.kv_depth_tokens <= most
        if not self.discarded and verdict.name is not VerdictName.TOO_SHORT:
            lost = most - reuse.kv_depth_tokens
            assert (verdict.name in LOST) == (lost > 0)
            if lost:
                assert verdict.lost_tokens == lost + reuse.kv_depth_tokens - reuse.depth_tokens
        if reuse.query.needs_snapshot:
            self._check_state(reuse, root, ids)
        elif reuse.query.mode is ReuseMode.TOKEN:
            assert reuse.depth_tokens == reuse.kv_depth_tokens

    def _check_state(self, reuse: Reuse, root: Root, ids: TokenIds) -> None:
        if reuse.depth_tokens:
            assert isinstance(reuse.snapshot, State)
            assert _depends_on(reuse.snapshot.root) == _depends_on(root), "state of another model"
            assert reuse.snapshot.prefix == ids[: reuse.depth_tokens], "state of other tokens"
        else:
            assert reuse.snapshot is None
        counters = self.cache.counters
        all_there = not (counters.evicted_snapshots or counters.refused_snapshots or self.discarded)
        if reuse.query.mode is ReuseMode.TOKEN and all_there:
            known = [len(p) for r, p in self.states if r is root and ids[: len(p)] == p]
            best = max((d for d in known if d <= reuse.kv_depth_tokens), default=0)
            assert reuse.depth_tokens == best, "a deeper snapshot was there"

    def check_always(self) -> None:
        assert self.cache.check_integrity() == []
        stats = self.cache.stats()
        assert stats.block_bytes <= self.limits.budget_bytes
        assert stats.side_bytes <= self.limits.side_budget_bytes
        assert stats.snapshot_bytes <= self.limits.snapshot_budget_bytes
        assert stats.leases == len(self.rows)
        assert sum(use.nbytes for use in stats.models) == stats.block_bytes + stats.side_bytes
        for row in self.rows:
            self._check_locked(row)
        assert not self.aborted & self._owners(), "something of an aborted request was kept"
        self._check_bytes(stats.block_bytes + stats.side_bytes)

    def _check_bytes(self, held: int) -> None:
        """Every distinct token is held once; twice at most where an exact block stands beside others."""
        once = 0
        for root in self.cache._store.tree.roots.values():
            leaves = [leaf for leaf in self.cache._store.tree.leaves if leaf.root is root.root]
            texts = sorted(b"".join(node.ids for node in reversed(list(leaf.upwards()))) for leaf in leaves)
            shared = sum(common_tokens(one, other) for one, other in pairwise(texts))
            once += 10 * (sum(map(token_count, texts)) - shared)
        assert once == held if not self.exact else once <= held, "the tokens of siblings are not held once"

    def _owners(self) -> set[str]:
        """The requests that computed what is stored."""
        tree = self.cache._store.tree
        blocks = [node.handle for leaf in tree.leaves for node in leaf.upwards()]
        parts = {part.by for block in blocks if isinstance(block, KV) for part in block.parts}
        return parts | {taken.handle.by for taken in tree.snapshots if isinstance(taken.handle, State)}

    def _check_locked(self, row: RowOfTest) -> None:
        """What a running row resumed from or committed is all there."""
        if row.orphan:
            return
        assert row.lease.tip.attached, "the path of a running row was evicted"
        held = self.cache.lookup(row.root, (*row.ids[: row.committed], 999_999))
        assert held.kv_depth_tokens == row.committed, "the path of a running row was evicted"

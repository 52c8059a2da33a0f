"""One model's door to the prefix cache: rows begin with what is stored, and leave behind what they compute.

Blocks are committed as they complete, in prefill and in decode, so a request that ends in any way leaves all of its
finished work; what broke leaves nothing. A request whose prompt another is computing right now waits for its blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import mlx.core as mx

from inference.cache.audit import AuditCase, AuditKind, AuditQueue
from inference.cache.blocks import Root, pack
from inference.cache.in_flight import InFlight
from inference.cache.node import Admission
from inference.cache.prefix_cache import PrefixCache
from inference.cache.quarantine import quarantine
from inference.cache.reuse import Foreseen, Reuse, ReuseMode
from inference.engine.assembly import assemble
from inference.engine.blocks import store_needs, unstorable
from inference.engine.kv import KVState
from inference.engine.kv_columns import RINGS, KVMismatch, attention_leaves, held
from inference.engine.settings import GRID_TOKENS
from inference.engine.trail import Trail
from inference.events import Explained, Looked, Warmth
from inference.params import CacheScope, KVQuantisation
from inference.ports import Job
from inference.tokens import Prompt, TokenIds

log = logging.getLogger(__name__)

SHOWN_TOKENS = 16
"""Of what is stored behind a match, for whoever asks why it ends there."""


class ModelStore:
    """What one loaded model shares with earlier and later rows. `fresh` makes the model's empty state, and `tried` is
    one that has read a token: which entries a model never writes shows only then. `token_cost` is what a token costs to
    compute, relative to other models.

    `in_flight` knows which job computes what, `audits` which warm rows are to be computed once more from nothing. All
    of it lives on the worker thread.
    """

    def __init__(
        self,
        cache: PrefixCache,
        model_id: str,
        fingerprint: str,
        fresh: Callable[[], KVState],
        tried: KVState,
        mode: ReuseMode,
        token_cost: float = 1.0,
    ) -> None:
        self.in_flight = InFlight()
        self.audits = AuditQueue(0)
        self._cache = cache
        self._model_id = model_id
        self._fingerprint = fingerprint
        self._fresh = fresh
        self._mode = mode
        self._token_cost = token_cost
        self._found: tuple[Job, Reuse] | None = None
        self._needs = store_needs(tried)
        self._windows = any(isinstance(entry, RINGS) for entry in attention_leaves(tried))
        self._refusal = unstorable(tried)
        if self._refusal is not None:
            log.warning("model %s keeps no prefixes: %s", model_id, self._refusal)

    def lookup(self, prompt: Prompt, scope: CacheScope | None, kv: KVQuantisation | None) -> Looked:
        """What a job would begin with now, what the disk would read for it included."""
        if scope is None or self._refusal is not None:
            return Looked()
        reuse = self._find(prompt.ids, scope, kv)
        return self._looked_ahead(reuse, self._cache.foreseen(reuse))

    def explain(self, prompt: Prompt, scope: CacheScope | None, kv: KVQuantisation | None) -> Explained:
        """As `lookup`, and where the prompt leaves what is stored."""
        if scope is None or self._refusal is not None:
            return Explained()
        reuse = self._find(prompt.ids, scope, kv)
        foreseen = self._cache.foreseen(reuse)
        behind = self._cache.behind(reuse, SHOWN_TOKENS) if foreseen.kv_depth_tokens == reuse.kv_depth_tokens else ()
        return Explained(self._looked_ahead(reuse, foreseen), foreseen.kv_depth_tokens, behind)

    def make_room(
        self, nbytes: int, by: str, prompt: Prompt, scope: CacheScope | None, kv: KVQuantisation | None
    ) -> None:
        """Takes about `nbytes` back, but nothing that a job of this prompt would begin with."""
        keep = None if scope is None or self._refusal is not None else self._find(prompt.ids, scope, kv)
        if self._cache.free(nbytes, by, keep=keep):
            mx.clear_cache()

    def reads_ahead(self, job: Job) -> bool:
        """Whether a job should wait for the disk, which may hold what memory does not; until `is_reading` says no."""
        if job.cache is None or self._refusal is not None or self._cache.disk is None:
            return False
        waits = self._cache.read_ahead(self._sought(job, job.cache), job.id)
        self._found = None if waits else self._found
        return waits

    def is_reading(self, job_id: str) -> bool:
        return self._cache.is_reading(job_id)

    def must_wait(self, job: Job) -> str | None:
        """The job that computes what this one misses: it waits until that is stored, and is then looked at again."""
        if job.cache is None or self._refusal is not None:
            return None
        depth = self._sought(job, job.cache).depth_tokens
        awaited = self.in_flight.awaited(self._root(job.cache, job.kv).key, job.prompt.ids, depth)
        if awaited is None:
            return None
        self._found = None
        self.in_flight.wait(job.id, awaited)
        return awaited.job

    def begin(self, job: Job) -> tuple[KVState, Trail | None, Looked]:
        """A row's state, filled as far as possible, and its trail.

        A row whose blocks cannot be assembled begins cold, and its store is left alone.
        """
        if job.cache is None or self._refusal is not None:
            return self._fresh(), None, Looked()
        found, self._found = self._sought(job, job.cache), None
        lease = self._cache.hold(found, job.id, _admission(job.cache), counted=not job.fork_of)
        try:
            state = self.assembled(lease.reuse, job.kv, len(job.prompt))
            trail = Trail(self._cache, lease, self._needs, job.prompt)
        except Exception as error:
            self._cache.release(lease)
            log.error("job %s begins without the store: %s", job.id, type(error).__name__)
            return self._fresh(), None, Looked()
        if lease.reuse.depth_tokens and not job.fork_of:
            self._offer(job, job.cache, lease.reuse)
        return state, trail, looked(lease.reuse)

    def follow(self, job: Job) -> Trail | None:
        """The trail of a fork: its state has read all of the prompt but the last token, so only blocks are needed.

        None where they are not there (they found no room): the fork then leaves nothing behind.
        """
        if job.cache is None or self._refusal is not None:
            return None
        root, ids = self._root(job.cache, job.kv), job.prompt.ids
        reuse = self._cache.lookup(root, ids, session=job.cache.session)
        if reuse.depth_tokens != len(ids) - 1:
            return None
        lease = self._cache.hold(reuse, job.id, _admission(job.cache), counted=False)
        return Trail(self._cache, lease, self._needs, job.prompt)

    def claim(self, job: Job, offset: int) -> None:
        """Says that a job is about to compute its prompt from `offset` on."""
        if job.cache is not None and self._refusal is None:
            self.in_flight.claim(job.id, self._root(job.cache, job.kv).key, job.prompt.ids, offset, len(job.prompt) - 1)

    # --- audits -------------------------------------------------------------------------------------------------

    def _offer(self, job: Job, scope: CacheScope, reuse: Reuse) -> None:
        kinds = self._kinds(reuse, job.kv)
        self.audits.offer(kinds, lambda: AuditCase(pack(job.prompt.ids), scope, job.kv, kinds))

    def _kinds(self, reuse: Reuse, kv: KVQuantisation | None) -> frozenset[AuditKind]:
        stored = reuse.stored
        marks = {
            AuditKind.DISK: any(node.from_disk for node in reuse.nodes) or (stored is not None and stored.from_disk),
            AuditKind.RECURRENT: stored is not None,
            AuditKind.QUANTISED: kv is not None,
            AuditKind.WINDOW: self._windows,
            AuditKind.CUT: reuse.depth_tokens % GRID_TOKENS > 0,
        }
        return frozenset(kind for kind, is_so in marks.items() if is_so)

    def found(self, ids: TokenIds, scope: CacheScope, kv: KVQuantisation | None) -> Reuse:
        """What a job of these ids would begin with now. Nothing is locked or counted."""
        return self._find(ids, scope, kv)

    def empty(self) -> KVState:
        """The state of a row that has read nothing."""
        return self._fresh()

    def audited(self, reuse: Reuse, bad_from: int | None) -> int:
        """An audit of what was found has ended: from `bad_from` on it is not true, and goes. How many blocks went."""
        gone = [] if bad_from is None else quarantine(self._cache.books, reuse, bad_from)
        self._cache.counters.audited(tuple(gone), diverged=bad_from is not None)
        if gone:
            mx.clear_cache()
        return len(gone)

    # --- assembly -----------------------------------------------------------------------------------------------

    def assembled(self, reuse: Reuse, kv: KVQuantisation | None, until_tokens: int) -> KVState:
        """A row made of what was found, with room up to `until_tokens`. Raises `KVMismatch`."""
        state = assemble(
            self._fresh(),
            reuse.handles,  # type: ignore[arg-type]  # the cache hands back what it was given
            reuse.depth_tokens,
            reuse.snapshot,  # type: ignore[arg-type]
            quantised=kv,
            room_tokens=until_tokens - reuse.depth_tokens,
        )
        if reuse.depth_tokens and any(held(entry, 0).end != reuse.depth_tokens for entry in attention_leaves(state)):
            self._cache.counters.offset_mismatch += 1
            raise KVMismatch(f"A row does not hold the {reuse.depth_tokens} tokens it is to begin with.")
        return state

    def _sought(self, job: Job, scope: CacheScope) -> Reuse:
        """What a job would begin with, found once by all who ask in a row, until it waits or begins."""
        if self._found is None or self._found[0] is not job:
            self._found = job, self._find(job.prompt.ids, scope, job.kv)
        return self._found[1]

    def _find(self, ids: TokenIds, scope: CacheScope, kv: KVQuantisation | None) -> Reuse:
        return self._cache.lookup(
            self._root(scope, kv),
            ids,
            needs_snapshot=self._needs.snapshots,
            mode=self._mode,
            session=scope.session,
        )

    def _looked_ahead(self, reuse: Reuse, foreseen: Foreseen) -> Looked:
        if foreseen.depth_tokens == reuse.depth_tokens:
            return looked(reuse)
        warmth = Warmth.SNAPSHOT if self._needs.snapshots else Warmth.HIT
        verdict = foreseen.verdict
        return Looked(warmth, foreseen.depth_tokens, str(verdict), verdict.lost_tokens, reuse.parting)

    def _root(self, scope: CacheScope, kv: KVQuantisation | None) -> Root:
        settings = "" if kv is None else f"{kv.bits}/{kv.group_size}/{kv.start_tokens}"
        return Root(self._model_id, self._fingerprint, settings, scope.salt, scope.template, self._token_cost)


def _admission(scope: CacheScope) -> Admission:
    return Admission.ONE_SHOT if scope.one_shot else Admission.MAIN


def looked(reuse: Reuse) -> Looked:
    """A lookup's result as it leaves the engine."""
    warmth = Warmth.FRESH if not reuse.depth_tokens else Warmth.SNAPSHOT if reuse.snapshot else Warmth.HIT
    return Looked(warmth, reuse.depth_tokens, str(reuse.verdict), reuse.verdict.lost_tokens, reuse.parting)

"""The disk as the prefix cache sees it, on the worker's thread: what to write when, and which jobs wait for what.

Theory. Whole blocks of conversations are written as they are committed, so that a process that is killed loses the
unfinished end of each and no more; states, which are large, at the end of a request; ends and everything else when it
leaves memory or the process ends in order. What was found untrue or was ordered away leaves the disk too. One-shots are
written too, for any may have been the first turn of a conversation, and go first when room is made.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from secrets import token_hex
from time import monotonic
from typing import Any, Final

from inference.cache.disk import DiskStore
from inference.cache.disk_fetch import Fetched
from inference.cache.disk_limits import disk_limits_of
from inference.cache.disk_plan import Plan, Want
from inference.cache.disk_records import KEY_BYTES, label_of, state_label_of
from inference.cache.disk_removals import Likes
from inference.cache.disk_thread import DiskThread
from inference.cache.node import Admission, Node, Snapshot
from inference.cache.recollection import Recollections
from inference.cache.reuse import Lease, Query, ReuseMode
from inference.cache.saved_manifest import NAME
from inference.cache.session_record import record_of
from inference.cache.sessions import Session
from inference.cache.tree import Match, PrefixTree, Removed
from inference.ports import Clock
from inference.prefix_store import DiskHealth

PATIENCE_S: Final = 10.0
"""A job whose blocks have not come by then is computed: a disk that hangs must not hold it up for ever."""
RECALL_PATIENCE_S: Final = 0.25
"""Of a job that waits only to be told why it is cold."""
_STATES_OF_TURN: Final = 2
"""At the end of the header and at the end of the answer: the next turn goes on from one of them."""


@dataclass(slots=True)
class _Asked:
    """Until when a job waits, for blocks if it `helps`. Without a `query` what comes is given to nobody."""

    query: Query | None
    until_s: float
    helps: bool


class DiskTier:
    """`clock` is monotonic. Nothing in here waits, but for `close`."""

    def __init__(self, thread: DiskThread, clock: Clock) -> None:
        self.thread = self._thread = thread
        self._clock = clock
        self._reading: dict[str, _Asked] = {}
        self._come: list[Fetched] = []
        self._late: set[str] = set()
        self._owing: dict[Node, tuple[str, bool]] = {}
        self._process = token_hex(8)
        self.recollections = Recollections()

    # --- reading ------------------------------------------------------------------------------------------------

    def ask(
        self, job: str, query: Query, match: Match, resumed_tokens: int, room_bytes: int, *, recalls: bool = False
    ) -> bool:
        """Whether a job has to wait for the disk: what it misses may be there, and is being read. With `recalls` it is
        worth a wait to know what an earlier process has seen of its session.

        Nobody waits behind one who has waited in vain, until that answer has come: a disk that hangs costs each job
        that waits for it now its patience, and later ones nothing.
        """
        self._take()
        want = _want(query, match, resumed_tokens, room_bytes)
        helps = self._thread.may_help(want)
        if self._late or not (helps or (recalls and self._thread.may_recall(query.session))):
            return False
        self._reading[job] = _Asked(query, self._clock() + (PATIENCE_S if helps else RECALL_PATIENCE_S), helps)
        self._thread.want(job, want)
        return True

    def forecast(self, query: Query, match: Match, resumed_tokens: int, room_bytes: int) -> Plan:
        """What a job would be given, by the names of files: it may be a little more, or less if one is broken."""
        return Plan() if self._late else self._thread.forecast(_want(query, match, resumed_tokens, room_bytes))

    def is_reading(self, job: str) -> bool:
        """Whether a job still waits: neither has its answer come nor its patience ended."""
        if (asked := self._reading.get(job)) is None:
            return False
        if self._clock() < asked.until_s:
            return True
        del self._reading[job]
        if asked.helps:
            self._late.add(job)
        return False

    def arrived(self) -> Iterator[tuple[Query, Fetched]]:
        """What has come for jobs that still wait, and was not overtaken by a removal."""
        self._take()
        while self._come:
            fetched = self._come.pop(0)
            query = self._reading.pop(fetched.job).query if fetched.job in self._reading else None
            if query is not None:
                if fetched.seen is not None:
                    self.recollections.put(query, fetched.seen)
                yield query, fetched

    def _take(self) -> None:
        for fetched in self._thread.fetched():
            self._late.discard(fetched.job)
            if fetched.job in self._reading:
                self._come.append(fetched)

    def _overtake(self) -> None:
        """What is read just now may be what goes: it is given to nobody."""
        self.recollections.clear()
        for asked in self._reading.values():
            asked.query = None

    # --- writing ------------------------------------------------------------------------------------------------

    def committed(self, lease: Lease) -> None:
        """A path has grown: all its whole blocks are to be on the disk, exact ones in the place of others if that is
        what is reused.

        All of it is looked at, for a broken file leaves a gap before others that are there. 0.5 ms for 1000 blocks.
        """
        self._hand_over(lease.tip, lease.request_id, better=lease.reuse.query.mode is ReuseMode.BITWISE)

    def _hand_over(self, tip: Node, job: str, *, better: bool) -> None:
        way = [node for node in tip.upwards() if node.is_full] if tip.attached else []
        is_written = self._thread.is_written
        for node in [one for one in reversed(way) if not is_written(label_key(one), exact=better and one.exact)]:
            if not self._save(node, job=job, better=better):  # nothing is found behind a gap
                self._owing[tip] = job, better
                return
        self._owing.pop(tip, None)

    def catch_up(self) -> None:
        """Hands over what found no room in the queue, once half of it is free. Costs nothing while nothing did.

        What has left memory since is not held for it: a disk that hangs would hold all that was ever evicted.
        """
        if not self._owing:
            return
        self._owing = {tip: how for tip, how in self._owing.items() if tip.attached}
        if self._thread.is_roomy:
            for tip, (job, better) in tuple(self._owing.items()):
                self._hand_over(tip, job, better=better)

    def released(self, lease: Lease) -> None:
        """A request has ended well: the states it leaves are worth their size now."""
        if not lease.tip.attached:
            return
        self.committed(lease)
        states = [held for held in lease.kept if held.node.snapshots.get(held.suffix) is held][-_STATES_OF_TURN:]
        if any(held.suffix for held in states):
            self._save(lease.tip)
        for held in states:
            self._save_state(held)
        whole = next((node for node in lease.tip.upwards() if node.is_full), None)
        if whole is not None and lease.admission is Admission.MAIN:
            self._thread.mark_used(label_key(whole))

    def left(self, removed: Removed, *, keep: bool) -> None:
        """Blocks and states left memory: to make room (`keep`), or because they are not to be used any more.

        Then they leave the disk too, but for what is saved and what others have behind them there.
        """
        if keep:
            for node in reversed(removed.nodes):
                self._save(node)
            for held in removed.snapshots:
                self._save_state(held)
        else:
            self._overtake()
            gone = [label_key(node) for node in removed.nodes]
            gone += [state_label_of(held).key for held in removed.snapshots]
            self._thread.let_go(gone)

    def ended(self, session: Session | None) -> None:
        """A request of a session has ended: a later process is to know where."""
        if session is not None and NAME.fullmatch(session.name) and (record := record_of(session, self._process)):
            self._thread.note(record, frozenset(map(label_key, session.entries[-1].upwards())))

    def left_session(self, name: str, end: bytes, still: Iterable[Node]) -> None:
        """A session is to be forgotten whose last request ended at the block `end`: what memory no longer held of it
        goes too, or never did in this process, but nothing that others hold there `still`."""
        self._overtake()
        self._thread.let_go((), end=end[:KEY_BYTES], name=name, spare=map(label_key, still))

    def distrusted(self, nodes: Iterable[Node], states: Iterable[Snapshot] = ()) -> None:
        """Blocks and states are not true, nor is what was computed behind them and may be on the disk alone."""
        self._overtake()
        self._thread.distrust([*map(label_key, nodes), *(state_label_of(held).key for held in states)])

    def quarantined(self, nodes: Sequence[Node], states: Iterable[Snapshot]) -> None:
        """As `distrusted`, of a path from its first wrong block on; what holds the beginning of that one goes too."""
        self._overtake()
        first = nodes[0] if nodes else None
        likes = None if first is None or first.parent is None else Likes(label_key(first.parent), first.ids)
        self._thread.distrust([*map(label_key, nodes), *(state_label_of(held).key for held in states)], likes)

    def clear(self, root: bytes | None = None, *, model: str = "") -> None:
        """Also what is not in memory: all of a tree or a model, or everything."""
        self._overtake()
        self._thread.clear(root, model=model)

    def _save(self, node: Node, *, job: str = "", until_s: float = 0.0, better: bool = False) -> bool:
        if node.handle is None:
            return False
        aside = node.admission is Admission.ONE_SHOT
        label, handle = label_of(node), node.handle
        return self._thread.save(label, handle, job=job, until_s=until_s, first_to_go=aside, better=better)

    def _save_state(self, held: Snapshot, *, until_s: float = 0.0) -> bool:
        aside = held.node.admission is Admission.ONE_SHOT
        return self._thread.save(state_label_of(held), held.handle, until_s=until_s, first_to_go=aside)

    # --- the end ------------------------------------------------------------------------------------------------

    def close(self, tree: PrefixTree, timeout_s: float) -> bool:
        """Writes what only memory holds and ends the thread; whether all was written.

        Conversations come first, and of them those used last.
        """
        until_s = monotonic() + timeout_s
        whole = True
        for leaf in sorted(tree.leaves, key=lambda leaf: (leaf.admission is Admission.ONE_SHOT, -leaf.last_used_s)):
            for node in reversed(list(leaf.upwards())):
                whole &= self._save(node, until_s=until_s)
        for held in sorted(tree.snapshots, key=lambda held: -held.last_used_s):
            whole &= self._save_state(held, until_s=until_s)
        return self._thread.close(max(0.0, until_s - monotonic())) and whole

    def kept(self, jobs: Collection[str]) -> Future[None]:
        """Is done when the whole blocks that these jobs have left so far are on the disk, or will not come there.

        From any thread.
        """
        return self._thread.kept(jobs)

    def limit(self, max_bytes: int | None, day_bytes: int, ttl_s: float) -> Future[None]:
        """Other limits from now on. Done when what is above them is gone."""

        def steps(store: DiskStore) -> Generator[None]:
            yield
            store.limit(disk_limits_of(max_bytes, day_bytes, ttl_s))

        return self._thread.ask(steps)

    def stats(self) -> dict[str, Any]:
        return asdict(self._thread.stats())

    def health(self) -> DiskHealth:
        return self._thread.health()


def label_key(node: Node) -> bytes:
    """The key under which a block is on the disk."""
    return node.digest[:KEY_BYTES]


def _want(query: Query, match: Match, resumed_tokens: int, room_bytes: int) -> Want:
    return Want(
        root=query.root.key,
        digests=tuple(node.digest for node in match.path) or (query.root.key,),
        packed=query.packed,
        limit=query.limit,
        matched_tokens=match.depth,
        in_memory_tokens=resumed_tokens,
        needs_state=query.needs_snapshot,
        bitwise=query.mode is ReuseMode.BITWISE,
        room_bytes=room_bytes,
        session=query.session,
    )

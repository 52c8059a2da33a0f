"""The store of computed prefixes as those see it who run no rows: what it holds, and how it gives memory back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol


class DiskState(StrEnum):
    """How a disk does on which prefixes are kept."""

    OK = "ok"
    FULL = "full"
    READ_ONLY = "read_only"
    FAILING = "failing"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class DiskHealth:
    """The disk on which prefixes are kept. `reason` is why nothing is written just now, "" when all is well.

    `files` hold `nbytes` of at most `limit_bytes`. Since the start `written`, `read`, `refused` and `dropped` files;
    `corrupt` of those were not what was written.
    """

    state: DiskState
    reason: str = ""
    files: int = 0
    nbytes: int = 0
    limit_bytes: int = 0
    written: int = 0
    read: int = 0
    refused: int = 0
    dropped: int = 0
    corrupt: int = 0


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """What a store of prefixes holds, and what it did since the start. `hit_ratio` is cached / prompt tokens.

    `budget_bytes` is for the blocks of conversations; `ceiling_bytes` is what all of it may hold while others need the
    memory (None: nobody does). `evictions` counts batches. `offset_mismatch`, `shared_kv_mutated` and
    `warm_cold_divergence` (of all `audits`) are 0 where all is well, `hybrid_trim_tokens` few: what rows of recurrent
    models computed again for want of a state.
    """

    held_bytes: int
    block_bytes: int
    side_bytes: int
    snapshot_bytes: int
    budget_bytes: int
    ceiling_bytes: int | None
    requests: int
    prompt_tokens: int
    cached_tokens: int
    lost_tokens: int
    hit_ratio: float
    evictions: int
    evicted_tokens: int
    evicted_bytes: int
    hybrid_trim_tokens: int
    offset_mismatch: int
    shared_kv_mutated: int
    audits: int
    warm_cold_divergence: int
    quarantined_blocks: int
    disk: DiskHealth = DiskHealth(DiskState.OFF)

    @property
    def room_bytes(self) -> int:
        """What conversations may hold now."""
        return self.budget_bytes if self.ceiling_bytes is None else min(self.budget_bytes, self.ceiling_bytes)


@dataclass(frozen=True, slots=True)
class StoreLimits:
    """How much a store of prefixes may hold in memory, and for how long; it may change while rows run.

    `memory_bytes` is for the blocks of conversations (None: a third of what the device may use), as far as weights and
    running rows leave room for it, for they come first; `snapshot_memory_bytes` for recurrent states (None: a quarter
    of that), `side_memory_bytes` for titles and other one-shots (None: a sixteenth). Blocks unused for `ttl_s` go, and
    what only a session holds that had no request for `idle_s`. Above `max_sessions` and `max_entries_per_session` the
    least recent go, and what is deeper than `max_conversation_tokens` is not stored. 0 is no limit for these five. A
    match of fewer than `min_reuse_tokens` is not reused.
    """

    memory_bytes: int | None = None
    snapshot_memory_bytes: int | None = None
    side_memory_bytes: int | None = None
    ttl_s: float = 0.0
    idle_s: float = 0.0
    max_sessions: int = 0
    max_entries_per_session: int = 0
    max_conversation_tokens: int = 0
    min_reuse_tokens: int = 1


@dataclass(frozen=True, slots=True)
class StoreRemoval:
    """What left a store in one act. `nbytes` is device memory, that of recurrent `snapshots` included."""

    blocks: int
    tokens: int
    snapshots: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class AuditResult:
    """A warm request computed once more from nothing, beside one made of what is stored. Depths in tokens.

    `kinds` says what the warm row was made of (see `AuditKind`). Both rows read the same `prompt_tokens` and the warm
    one's `steps` greedy tokens: the warm one from `depth_tokens` on, the cold one from `cold_from` on (0, but where a
    long prompt is looked at in pieces). `diverged_step` is the first at which the cold one would have chosen another
    token, near ties aside. `distance` is the largest difference of log-probabilities, and may be infinite;
    `kv_distance` that of stored keys and values, as a part of the largest. `tolerance` is what rounding may make of
    the first. With `diverged` the blocks from `quarantined_from` on, `quarantined_blocks` of them, are gone.
    """

    model: str
    kinds: tuple[str, ...]
    prompt_tokens: int
    depth_tokens: int
    cold_from: int
    steps: int
    diverged_step: int | None
    distance: float
    kv_distance: float
    tolerance: float
    diverged: bool
    quarantined_from: int | None
    quarantined_blocks: int
    took_s: float


class Auditing(Protocol):
    """A model's audits, for idle moments. Used on the worker's thread."""

    @property
    def waits(self) -> bool:
        """Whether there is something to do now."""

    def step(self, room_bytes: int | None) -> AuditResult | None:
        """A short piece of work, no longer than a step of prefill; what has come of an audit that ended with it.

        One that needs more than `room_bytes` is not begun (None: there is no limit). Raises `EngineFatal`.
        """

    def abandon(self) -> None:
        """Frees what an audit under way holds: something else needs the device."""


@dataclass(frozen=True, slots=True)
class SavedConversation:
    """A conversation that no eviction takes from the disk. `name` is its own within the process, `id` its owner's.

    `tokens` and `blocks` are those that were saved, `nbytes` what there is of their files. `weights` is the fingerprint
    of the model's files: no other model can go on with it. `saved_s` is Unix time.
    """

    name: str
    owner: str
    id: str
    title: str
    model: str
    weights: str
    tokens: int
    blocks: int
    nbytes: int
    saved_s: float


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was saved, and what was saved before still is. `reason` is a word."""

    reason: str


@dataclass(frozen=True, slots=True)
class Recalled:
    """What of a saved conversation is in memory now. `lost_files` were broken or gone."""

    saved: SavedConversation
    warm_tokens: int
    lost_files: int


@dataclass(frozen=True, slots=True)
class SavedTotals:
    """What an owner has saved, the last saved first: `nbytes` of files. All owners together have `limit_bytes`."""

    conversations: tuple[SavedConversation, ...]
    nbytes: int
    limit_bytes: int
    outage: str


@dataclass(frozen=True, slots=True)
class Pinned:
    """A beginning that stays in memory: the first `tokens` of what `session` last asked. `nbytes` is device memory."""

    session: str
    tokens: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of stored prefixes that came from elsewhere: files and saved conversations, counted by a word.

    `taken` are on the disk now, `known` were already; all other words say why not. `nbytes` were taken.
    """

    files: Mapping[str, int]
    nbytes: int
    conversations: Mapping[str, int]


class Recalling(Protocol):
    """A saved conversation on its way back into memory. Used on the worker's thread."""

    @property
    def saved(self) -> SavedConversation: ...

    def step(self) -> Future[None] | None:
        """Takes in what was read and has more read; call it again when that is done. None: there is no more."""

    def end(self) -> Future[Recalled]:
        """What has come of it. The session of its name goes on there."""


class SavedConversations(Protocol):
    """Conversations that stay on the disk until somebody deletes them. Called on the worker's thread, done elsewhere.

    A future may be cancelled, and is when the process ends before it.
    """

    def save(self, name: str, owner: str, told: str, title: str | None) -> Future[SavedConversation | Refused | None]:
        """Saves what there is of a conversation now, in the place of what was saved. None: nothing is known of it.

        `told` is what its owner calls it. Without a title it keeps the one it has.
        """

    def recall(self, name: str, owner: str) -> Future[Recalling | None]:
        """Finds out what is to be read for a conversation. None: there is none of this name and owner."""

    def delete(self, name: str, owner: str) -> Future[int | None]:
        """Lets a saved conversation go, with what only it has on the disk: bytes that became free. None: no such."""

    def totals(self, owner: str) -> Future[SavedTotals]:
        """What an owner has saved."""

    def take_in(self, batch: str) -> Future[Taken]:
        """Takes in what another process of ours has put beside the disk's files, under this name.

        The future fails with `ValueError` or `OSError` where it is not there, or is not what it should be.
        """


class PrefixStore(Protocol):
    """What all models' rows have left to be reused, seen from outside of rows. Used by the worker thread only."""

    @property
    def held_bytes(self) -> int:
        """Device memory of all that is stored."""

    def keep_within(self, ceiling_bytes: int | None) -> None:
        """From now on nothing is stored above this; what is there already stays. None: only the budgets hold."""

    def limit(self, limits: StoreLimits) -> StoreRemoval:
        """Other limits from now on. What is above them goes, what running rows stand on when these end."""

    def limit_disk(self, max_bytes: int | None, day_bytes: int) -> Future[None] | None:
        """How much may lie on the disk (None: a part of it), and how much may be written in a day (0: no limit), from
        now on. Is done when what is above it is gone, but for saved conversations; None where nothing is kept there."""

    def free(self, nbytes: int, by: str, *, locked: bool = False) -> int:
        """Gives about `nbytes` back; how many it were. What running rows stand on goes last, and only if `locked`."""

    def sweep(self) -> None:
        """Lets go of what has become too old. Costs nothing while nothing has."""

    def prove(self) -> None:
        """Looks whether something that is stored is still what it was. Milliseconds, for idle moments."""

    def clear(self, *, model: str = "", session: str = "") -> StoreRemoval:
        """Removes all of a model, what only a session holds, or everything."""

    def kept(self, jobs: Collection[str]) -> Future[None] | None:
        """Is done when the whole blocks that these jobs have left so far outlive the process, or never will; None where
        nothing does. From any thread.
        """

    def pin(self, session: str) -> Pinned | None:
        """Keeps where a session's last request ended in memory; None: it is not there, or there is no room for more."""

    def close(self) -> None:
        """Writes to the disk what only memory holds, as far as a few seconds allow. The last call."""

    @property
    def saved(self) -> SavedConversations | None:
        """None: nothing is kept on a disk."""

    def totals(self) -> StoreTotals:
        """Cheap."""

    def stats(self) -> Mapping[str, Any]:
        """Everything there is to tell, as JSON values. Reads every block."""

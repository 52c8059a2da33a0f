"""The ledger of one process: the lineage in memory, and the disk that makes it durable where there is one.

It lives on the event loop and needs no Django; see `mlxd.ledger.disk` for the part that does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from inference.conversation.healing import HealingStore, Place, Said, Seek
from inference.conversation.lineage import Lineage
from inference.conversation.turn_chain import Asked, Placed, Turn
from inference.errors import BusyError
from inference.prefix_store import AuditResult
from mlxd.ledger.journal import JournalView
from mlxd.ledger.record import GenerationRecord
from mlxd.ledger.recorded import Known
from mlxd.ledger.whose import Whose

MAX_FORGOTTEN = 1000

log = structlog.get_logger(__name__)


class LedgerUnavailable(BusyError):
    """The database cannot be read now, or there is none."""

    code = "ledger_unavailable"


@dataclass(frozen=True, slots=True)
class LedgerView:
    """`disk` is `off`, or what was wrong with the disk at start, or the state of the journal. `turns` are in memory.

    `set_aside` is the name of a damaged file that was found at start, `restored` that of the copy which took its place.
    """

    disk: str
    turns: int
    journal: JournalView
    set_aside: str = ""
    restored: str = ""


class Disk(Protocol):
    """Where turns outlive the process."""

    async def keep(self, turn: Turn, record: GenerationRecord, said: Sequence[Said], *, named: bool) -> None:
        """Returns when the turn is safe, and what was said in it, or the disk fails."""

    def note(self, record: GenerationRecord, said: Sequence[Said]) -> None:
        """Never waits."""

    async def forget(self, session_id: str, forget: Callable[[Said], None]) -> int | None:
        """Takes a session out, and overwrites it; `forget` hears what was said in it. How many rows were its own; None:
        the disk has not done it yet."""

    def audited(self, result: AuditResult) -> None:
        """Writes down what came of an audit. From any thread; never waits."""

    def restore(self, store: HealingStore) -> None:
        """Fills the store with what was said last. Returns at once."""

    def may_hold(self, place: Place) -> bool:
        """False: nothing that was said is at this place."""

    async def seek[T](self, work: Callable[[Seek], T]) -> T:
        """Work that needs what was said at some places, done where it may wait. Raises `LedgerUnavailable`."""

    @property
    def shelf_counts(self) -> dict[str, int]:
        """How often something that was said was looked up, and what came of it."""

    async def read[T](self, ask: Callable[..., T], *about: object) -> T:
        """The answer of a question that blocks. Raises `LedgerUnavailable`."""

    def view(self) -> JournalView: ...

    def close(self) -> None:
        """Writes what waits. Blocks for seconds at most."""


class Ledger:
    """Without a disk it is memory only; `why` says why. Nothing of it makes a request fail."""

    def __init__(
        self,
        disk: Disk | None = None,
        lineage: Lineage | None = None,
        *,
        why: str = "off",
        set_aside: str = "",
        restored: str = "",
    ) -> None:
        self._disk = disk
        self._lineage = lineage or Lineage()
        self._why = why
        self._set_aside = set_aside
        self._restored = restored
        self._forgotten: dict[str, float] = {}
        self.tally: Callable[[GenerationRecord], None] = lambda _: None
        """Hears of every generation that has ended, on the loop."""

    def place(self, asked: Asked | None, whose: Whose) -> Known:
        """Where a request stands among the turns that are known; nowhere if it cannot become a turn (None)."""
        if asked is None:
            return Known(whose)
        try:
            return Known(whose, self._lineage.place(replace(asked, at_s=time.time())))
        except Exception as error:
            log.error("request_not_placed", error=type(error).__name__)
            return Known(whose)

    def knows(self, owner: str, session: str) -> bool:
        """Whether an owner has a session of this name in the lineage."""
        return self._lineage.knows(owner, session)

    async def settle(
        self, record: GenerationRecord, placed: Placed, answers: Sequence[bytes], said: Sequence[Said] = ()
    ) -> None:
        """Takes a finished turn into the lineage, and with what was said in it onto the disk."""
        self.tally(record)
        if self._was_forgotten(record):
            return
        turn = self._lineage.commit(placed, answers)
        if self._disk is not None:
            await self._disk.keep(turn, record, said, named=placed.asked.named)

    def note(self, record: GenerationRecord, said: Sequence[Said] = ()) -> None:
        """Writes down a generation that became no turn."""
        self.tally(record)
        if self._disk is not None and not self._was_forgotten(record):
            self._disk.note(record, said)

    def _was_forgotten(self, record: GenerationRecord) -> bool:
        """Its session was taken out while it ran."""
        return self._forgotten.get(record.session, 0.0) > record.began_s

    async def forget(self, session_id: str, forget: Callable[[Said], None]) -> int:
        """Takes a session with all its turns out of the lineage and off the disk; how many rows, or without a disk
        turns, there were.

        `forget` hears what was said in it, on another thread. A request of it that runs meanwhile leaves nothing.
        Raises `LedgerUnavailable` where the disk has not done it in time; it is tried again then.
        """
        self._forgotten.pop(session_id, None)
        self._forgotten[session_id] = time.time()
        while len(self._forgotten) > MAX_FORGOTTEN:
            self._forgotten.pop(next(iter(self._forgotten)))
        turns = self._lineage.forget(session_id)
        if self._disk is None:
            return turns
        rows = await self._disk.forget(session_id, forget)
        if rows is None:
            raise LedgerUnavailable(f"The disk did not take it out yet ({self.view().disk}).")
        return rows

    def audited(self, result: AuditResult) -> None:
        """Writes down what came of an audit. From any thread; never waits."""
        if self._disk is not None:
            self._disk.audited(result)

    def restore(self, store: HealingStore) -> None:
        """Fills a store with what was said last, as far as it has room; beside everything else."""
        if self._disk is not None:
            self._disk.restore(store)

    def may_hold(self, place: Place) -> bool:
        """False: nothing that was said is on the disk at this place."""
        return self._disk is not None and self._disk.may_hold(place)

    async def seek[T](self, work: Callable[[Seek], T]) -> T:
        """Work with what lies on the disk, done away from the loop. Raises `LedgerUnavailable`."""
        return await self._having_disk().seek(work)

    @property
    def shelf_counts(self) -> dict[str, int]:
        """How often what was said was looked up on the disk, and what came of it."""
        return {} if self._disk is None else self._disk.shelf_counts

    async def read[T](self, ask: Callable[..., T], *about: object) -> T:
        """Asks the database. Raises `LedgerUnavailable`."""
        return await self._having_disk().read(ask, *about)

    def _having_disk(self) -> Disk:
        if self._disk is None:
            raise LedgerUnavailable(f"There is no ledger on disk ({self._why}).")
        return self._disk

    def view(self) -> LedgerView:
        journal = self._disk.view() if self._disk is not None else JournalView(state=self._why)
        return LedgerView(journal.state, len(self._lineage), journal, self._set_aside, self._restored)

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()

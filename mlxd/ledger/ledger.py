"""The ledger of one process: the lineage in memory, and the disk that makes it durable where there is one.

It lives on the event loop and needs no Django; see `mlxd.ledger.disk` for the part that does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from inference.conversation.lineage import Lineage
from inference.conversation.turn_chain import Placed, Turn
from inference.errors import BusyError
from inference.messages import Conversation
from mlxd.ledger.asked import asked_of
from mlxd.ledger.journal import JournalView
from mlxd.ledger.record import GenerationRecord
from mlxd.ledger.recorded import Known
from mlxd.ledger.whose import Whose

OFF_LOOP_BYTES = 64 * 1024
"""Comparing a larger body by meaning takes milliseconds that other streams would miss."""

log = structlog.get_logger(__name__)


class LedgerUnavailable(BusyError):
    """The database cannot be read now, or there is none."""

    code = "ledger_unavailable"


@dataclass(frozen=True, slots=True)
class LedgerView:
    """`disk` is `off`, or what was wrong with the disk at start, or the state of the journal. `turns` are in memory.

    `set_aside` is the name of a damaged file that was found at start.
    """

    disk: str
    turns: int
    journal: JournalView
    set_aside: str = ""


class Disk(Protocol):
    """Where turns outlive the process."""

    async def keep(self, turn: Turn, record: GenerationRecord, *, named: bool) -> None:
        """Returns when the turn is safe, or the disk fails."""

    def note(self, record: GenerationRecord) -> None:
        """Never waits."""

    async def read[T](self, ask: Callable[..., T], *about: object) -> T:
        """The answer of a question that blocks. Raises `LedgerUnavailable`."""

    def view(self) -> JournalView: ...

    def close(self) -> None:
        """Writes what waits. Blocks for seconds at most."""


class Ledger:
    """Without a disk it is memory only; `why` says why. Nothing of it makes a request fail."""

    def __init__(
        self, disk: Disk | None = None, lineage: Lineage | None = None, *, why: str = "off", set_aside: str = ""
    ) -> None:
        self._disk = disk
        self._lineage = lineage or Lineage()
        self._why = why
        self._set_aside = set_aside

    async def place(self, conversation: Conversation | None, whose: Whose, body_bytes: int = 0) -> Known:
        """Where a request stands among the turns that are known.

        Nowhere if it cannot become a turn: a raw prompt, or a conversation whose last message is to be continued.
        """
        if conversation is None or conversation.continue_final:
            return Known(whose)
        try:
            if body_bytes > OFF_LOOP_BYTES:
                asked = await asyncio.to_thread(asked_of, conversation, whose)
            else:
                asked = asked_of(conversation, whose)
            return Known(whose, self._lineage.place(replace(asked, at_s=time.time())))
        except Exception as error:
            log.error("request_not_placed", error=type(error).__name__)
            return Known(whose)

    async def settle(self, record: GenerationRecord, placed: Placed, answers: Sequence[bytes]) -> None:
        """Takes a finished turn into the lineage and onto the disk."""
        turn = self._lineage.commit(placed, answers)
        if self._disk is not None:
            await self._disk.keep(turn, record, named=placed.asked.named)

    def note(self, record: GenerationRecord) -> None:
        """Writes down a generation that became no turn."""
        if self._disk is not None:
            self._disk.note(record)

    async def read[T](self, ask: Callable[..., T], *about: object) -> T:
        """Asks the database. Raises `LedgerUnavailable`."""
        if self._disk is None:
            raise LedgerUnavailable(f"There is no ledger on disk ({self._why}).")
        return await self._disk.read(ask, *about)

    def view(self) -> LedgerView:
        journal = self._disk.view() if self._disk is not None else JournalView(state=self._why)
        return LedgerView(journal.state, len(self._lineage), journal, self._set_aside)

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()

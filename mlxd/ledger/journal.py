"""The one thread that writes to the database. Nobody else waits for the disk, and it waits for nobody.

Writes that come close together share a transaction, so one sync of the disk makes them all durable; `durable` waits for
that, on the event loop and for the one stream that asks. While the disk fails, what was to be written stays here
(bounded, the oldest given up first) and is tried again; nobody waits then, and the view says so.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from django.db import DatabaseError, DataError, IntegrityError, OperationalError, connection, transaction

from mlxd.ledger.ticket import Ticket, settle

type Write = Callable[[], None]
type Entry = tuple[Write, Ticket]
type Chore = Callable[[], bool]

GATHER_S = 0.5
"""What nobody waits for is written this late, together."""
RETRY_S = 5.0
STALL_S = 2.0
"""A disk that takes longer is not waited for: answers end without it."""
CHORE_S, CHORE_PAUSE_S = 3600.0, 0.05
MAX_BATCH = 500
MAX_WAITING = 10_000

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JournalView:
    """`state` is `ok`, or what is wrong with the disk. `undurable` answers ended before they were safe on it.

    `refused` writes could not be taken by the database, `dropped` ones had no room while it was out.
    """

    state: str = "ok"
    waiting: int = 0
    written: int = 0
    batches: int = 0
    outages: int = 0
    undurable: int = 0
    refused: int = 0
    dropped: int = 0


class Journal:
    """`put` is for any thread and never blocks. `chore` runs now and then when nothing waits; True: there is more.

    `wrote` hears how many writes became safe, after those who waited for them. `ready` is called before each
    transaction, and raises `DatabaseError` where nothing may be written now.
    """

    def __init__(
        self,
        *,
        first: Write | None = None,
        chore: Chore | None = None,
        wrote: Callable[[int], None] | None = None,
        ready: Callable[[], None] | None = None,
        chore_s: float = CHORE_S,
        retry_s: float = RETRY_S,
        stall_s: float = STALL_S,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self._first = first
        self._chore = chore
        self._wrote = wrote
        self._ready = ready
        self._chore_s = chore_s
        self._chore_due_s = 0.0
        self._retry_s = retry_s
        self._stall_s = stall_s
        self._max_waiting = max_waiting
        self._wake = threading.Condition()
        self._waiting: deque[Entry] = deque()
        self._urgent = False
        self._stopping = False
        self._out_until_s = 0.0
        self._busy_since_s: float | None = None
        self._view = JournalView()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Writes what waits and ends. False: the disk did not take all of it in time."""
        with self._wake:
            self._stopping, self._out_until_s = True, 0.0  # one more try
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive() and not self._waiting

    def view(self) -> JournalView:
        with self._wake:
            state = "stalled" if self._view.state == "ok" and self._stalled() else self._view.state
            return replace(self._view, state=state, waiting=len(self._waiting))

    def put(self, write: Write, *, urgent: bool = False) -> Ticket:
        """Hands a write over. It runs on the journal's thread, in a transaction with others, and perhaps twice."""
        ticket = Ticket()
        with self._wake:
            if len(self._waiting) >= self._max_waiting:
                settle([self._waiting.popleft()[1]], durable=False)
                self._view = replace(self._view, dropped=self._view.dropped + 1)
            self._waiting.append((write, ticket))
            if urgent or len(self._waiting) == 1:
                self._urgent |= urgent
                self._wake.notify()
        return ticket

    async def durable(self, ticket: Ticket) -> bool:
        """Waits until the write is on the disk. False, soon, where the disk does not take it."""
        with self._wake:
            timeout_s = 0.0 if self._stalled() or self._view.state != "ok" else self._stall_s
        safe = await ticket.wait(timeout_s)
        if not safe:
            with self._wake:
                self._view = replace(self._view, undurable=self._view.undurable + 1)
        return safe

    def _stalled(self) -> bool:
        return self._busy_since_s is not None and time.monotonic() - self._busy_since_s > self._stall_s

    # --- on the journal's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            if self._first is not None:
                self._first()
        except DatabaseError as error:
            log.warning("ledger_not_laid_out", reason=outage_name(error))
        try:
            while (batch := self._next()) is not None:
                if batch:
                    self._write(batch)
                elif self._chore is not None:
                    self._do_chore(self._chore)
        finally:
            connection.close()

    def _next(self) -> list[Entry] | None:
        """The next batch; an empty one when it is time for the chore, None at the end."""
        with self._wake:
            while True:
                now_s = time.monotonic()
                if self._stopping:
                    return self._taken() if self._waiting and now_s >= self._out_until_s else None
                if now_s < self._out_until_s:
                    self._wake.wait(self._out_until_s - now_s)
                elif self._waiting:
                    if not self._urgent:
                        self._wake.wait_for(lambda: self._urgent or self._stopping, GATHER_S)
                    return self._taken()
                elif self._chore is not None and now_s >= self._chore_due_s:
                    return []
                else:
                    self._wake.wait(self._chore_due_s - now_s if self._chore is not None else None)

    def _taken(self) -> list[Entry]:
        self._urgent = False
        return [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]

    def _write(self, batch: list[Entry]) -> None:
        """All in one transaction; where one of them is refused, each in its own, so that it takes no other with it."""
        error = self._attempt(batch)
        parts = [batch] if error is None or len(batch) == 1 or _is_outage(error) else [[entry] for entry in batch]
        for at, part in enumerate(parts):
            if len(parts) > 1:
                error = self._attempt(part)
            if error is None:
                self._settle(part)
            elif _is_outage(error):
                self._out([entry for rest in parts[at:] for entry in rest], error)
                return
            else:
                self._refuse(part[0][1], error)

    def _attempt(self, batch: list[Entry]) -> Exception | None:
        """One transaction, or what it failed with."""
        with self._wake:
            self._busy_since_s = time.monotonic()
        try:
            if self._ready is not None:
                self._ready()
            with transaction.atomic():
                for write, _ in batch:
                    write()
        except Exception as error:
            return error
        finally:
            with self._wake:
                self._busy_since_s = None
        return None

    def _settle(self, batch: list[Entry]) -> None:
        with self._wake:
            view = self._view
            recovered = view.state != "ok"
            self._view = replace(view, state="ok", written=view.written + len(batch), batches=view.batches + 1)
        settle((ticket for _, ticket in batch), durable=True)
        if self._wrote is not None:
            self._wrote(len(batch))
        if recovered:
            log.info("ledger_recovered")

    def _out(self, batch: list[Entry], error: Exception) -> None:
        """The disk will not have it: kept in order for another try, and nobody waits until then."""
        with self._wake:
            began = self._view.state == "ok"
            room = max(0, self._max_waiting - len(self._waiting))
            kept = batch[max(0, len(batch) - room) :]
            self._waiting.extendleft(reversed(kept))
            waiting = [ticket for _, ticket in self._waiting]
            view, self._out_until_s = self._view, time.monotonic() + self._retry_s
            dropped = view.dropped + len(batch) - len(kept)
            self._view = replace(view, state=outage_name(error), outages=view.outages + 1, dropped=dropped)
        settle(waiting, durable=False)
        connection.close()  # the file may be another one when it works again
        if began:
            log.error("ledger_not_written", reason=outage_name(error))

    def _refuse(self, ticket: Ticket, error: Exception) -> None:
        with self._wake:
            self._view = replace(self._view, refused=self._view.refused + 1)
        settle([ticket], durable=False)
        log.error("ledger_refused", error=type(error).__name__)

    def _do_chore(self, chore: Chore) -> None:
        again = False

        def run() -> None:
            nonlocal again
            again = chore()

        error = self._attempt([(run, Ticket())])
        if error is not None:
            log.warning("ledger_chore_failed", reason=outage_name(error))
        self._chore_due_s = time.monotonic() + (CHORE_PAUSE_S if again else self._chore_s)


def _is_outage(error: Exception) -> bool:
    return isinstance(error, DatabaseError) and not isinstance(error, IntegrityError | DataError)


def outage_name(error: Exception) -> str:
    """A word for the trouble; SQLite's text names no content, but it is not ours either."""
    text = str(error).lower()
    words = {
        "full": "disk_full",
        "locked": "locked",
        "held": "log_held",
        "readonly": "read_only",
        "malformed": "corrupt",
        "i/o": "io_error",
    }
    known = next((word for part, word in words.items() if part in text), "")
    return known or ("unavailable" if isinstance(error, OperationalError) else "corrupt")

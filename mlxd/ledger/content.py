"""What was said and read as rows: written with its turn, taken out with its session."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from django.db import connection

from inference.conversation.healing import Said
from inference.conversation.lineage_memory import FRESH, LineageMemory, Seen
from inference.conversation.turn_chain import Turn
from mlxd.ledger import memory_bytes, models, spoken_bytes
from mlxd.ledger.insert import insert
from mlxd.ledger.journal import Write
from mlxd.ledger.rows import moment
from mlxd.ledger.sealed import Unreadable

type Tell = Callable[[str], None]
"""Takes the word for why a row could not be read."""

MAX_MEMORIES: Final = 2000
MAX_MEMORY_BYTES: Final = 32 << 20
"""Of the newest turns so many are read at start, 0.07 ms each at 200 messages. From an older one a conversation goes
on as from any turn, except that what drifted in it is read anew."""


def content_write(said: Sequence[Said], at_s: float, turn: Turn | None = None, session: str = "") -> Write | None:
    """Writes what was said and, of a turn, what had been read; None for nothing. What was said in no turn has its
    `session`. Bodies are made as they are written, away from the loop."""
    memory = FRESH if turn is None else turn.memory
    if not said and memory == FRESH:
        return None
    at, turn_id = moment(at_s), turn.id if turn is not None else None

    def write() -> None:
        for one in said:
            body = spoken_bytes.encoded(one.turn, one.place)
            alone = session if turn is None else ""
            insert(models.Spoken, place=one.place, turn_id=turn_id, session=alone, body=body, size=len(body), at=at)
        if turn_id is not None and memory != FRESH:
            body = memory_bytes.encoded(memory, turn_id)
            insert(models.Memory, turn_id=turn_id, body=body, size=len(body), at=at)

    return write


def stored_memories(tell: Tell) -> dict[str, LineageMemory]:
    """What was read up to the newest turns, by their ids. Blocks."""
    return dict(_memories(tell))


def _memories(tell: Tell) -> Iterator[tuple[str, LineageMemory]]:
    left_bytes, known = MAX_MEMORY_BYTES, dict[bytes, Seen]()
    with connection.cursor() as cursor:
        query = "SELECT turn_id, body FROM ledger_memory ORDER BY at DESC LIMIT %s"
        for turn_id, body in cursor.execute(query, [MAX_MEMORIES]):
            left_bytes -= len(body)
            if left_bytes < 0:
                return
            memory = memory_bytes.decoded(bytes(body), turn_id, known)
            if isinstance(memory, Unreadable):
                tell(memory.value)
            else:
                yield turn_id, memory

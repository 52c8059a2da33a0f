"""Turns and generations as rows, and rows as the turns they were."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from django.db import connection
from django.db.models import Max

from inference.conversation.lineage_memory import FRESH, LineageMemory
from inference.conversation.turn_chain import Edge, Turn
from mlxd.ledger import models
from mlxd.ledger.insert import insert
from mlxd.ledger.journal import Write
from mlxd.ledger.record import GenerationRecord

POINT_BYTES = 32
PATH_CHARS = 256

_TURNS: Final = (
    "SELECT public_id, session_id, owner, line, parent, beside, edge, known_messages, messages, hashes, ends, head,"
    " tools, CAST(at AS TEXT) FROM ledger_turn WHERE id > %s ORDER BY id"
)
_KINDS: Final = (*(str,) * 7, int, int, *(bytes,) * 4, str)

log = structlog.get_logger(__name__)


def turn_write(turn: Turn, record: GenerationRecord, content: Write | None = None, *, named: bool) -> Write:
    """Writes a finished turn, its session, its generation and its content. Written twice, it is there once."""
    number, record = secrets.token_hex(16), replace(record, edge=turn.edge.value)

    def write() -> None:
        _insert_session(turn, named)
        _insert_turn(turn)
        _insert_generation(number, record, turn_id=turn.id)
        if content is not None:
            content()

    return write


def generation_write(record: GenerationRecord, content: Write | None = None) -> Write:
    """Writes a generation that became no turn."""
    number = secrets.token_hex(16)

    def write() -> None:
        _insert_generation(number, record, session=record.session)
        if content is not None:
            content()

    return write


def _insert_session(turn: Turn, named: bool) -> None:
    at, conflict = moment(turn.at_s), "ON CONFLICT(id) DO UPDATE SET touched_at = excluded.touched_at"
    insert(models.Session, conflict, id=turn.session, owner=turn.owner, named=named, began_at=at, touched_at=at)


def _insert_turn(turn: Turn) -> None:
    insert(
        models.Turn,
        public_id=turn.id,
        session_id=turn.session,
        owner=turn.owner,
        line=turn.line,
        parent=turn.parent or "",
        beside=turn.beside or "",
        edge=turn.edge.value,
        known_messages=turn.known_messages,
        messages=turn.messages,
        hashes=b"".join(turn.hashes),
        ends=b"".join(turn.ends),
        head=turn.head,
        tools=turn.tools,
        at=moment(turn.at_s),
    )


def _insert_generation(number: str, record: GenerationRecord, *, turn_id: str | None = None, session: str = "") -> None:
    """With what stood where it left its session, if it did. `number` is its id."""
    usage, diverged = record.usage, record.diverged
    insert(
        models.Generation,
        id=number,
        request_id=record.request_id,
        turn_id=turn_id,
        session=session,
        owner=record.owner,
        model=record.model,
        outcome=record.outcome,
        edge=record.edge,
        verdict=usage.verdict,
        diverged_token=diverged.token if diverged else None,
        diverged_message=diverged.message if diverged else None,
        diverged_path=diverged.path[:PATH_CHARS] if diverged else "",
        diverged_rule=diverged.rule if diverged else "",
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        prefilled_tokens=usage.prompt_tokens - usage.cached_tokens,
        lost_tokens=usage.lost_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        malformed_calls=record.malformed_calls,
        queue_s=usage.queue_s,
        prefill_s=usage.prefill_s,
        decode_s=usage.decode_s,
        total_s=record.total_s,
        began_at=moment(record.began_s),
    )
    if diverged is not None:
        texts = {"before": diverged.before, "sent": diverged.sent, "stored": diverged.stored}
        insert(models.Difference, generation_id=number, **texts)


def stored_turns(limit: int, memories: Mapping[str, LineageMemory]) -> Iterator[Turn]:
    """The newest turns, oldest of them first; `memories` has what was read up to them, by their ids. Blocks.

    A row that a fault has changed is left out: it must not keep the others from being known.
    """
    newest: int = models.Turn.objects.aggregate(last=Max("id"))["last"] or 0
    unreadable = 0
    with connection.cursor() as cursor:
        for row in cursor.execute(_TURNS, [newest - limit]):
            try:
                turn = _stored_turn(row, memories)
            except (ValueError, TypeError, OverflowError):
                unreadable += 1
            else:
                yield turn
    if unreadable:
        log.warning("turns_not_read", count=unreadable)


def _stored_turn(row: tuple[Any, ...], memories: Mapping[str, LineageMemory]) -> Turn:
    """Raises `ValueError` or `TypeError` for what was never written."""
    public_id, session, owner, line, parent, beside, edge, known, messages, hashes, ends, head, tools, at = row
    if tuple(map(type, row)) != _KINDS:
        raise TypeError
    return Turn(
        id=public_id,
        session=session,
        owner=owner,
        line=line,
        parent=parent or None,
        beside=beside or None,
        edge=Edge(edge),
        known_messages=known,
        messages=messages,
        hashes=points_of(hashes),
        ends=points_of(ends),
        head=head,
        tools=tools,
        at_s=datetime.fromisoformat(at).replace(tzinfo=UTC).timestamp(),
        memory=memories.get(public_id, FRESH),
    )


def moment(at_s: float) -> datetime:
    return datetime.fromtimestamp(at_s, UTC)


def points_of(joined: bytes | memoryview) -> tuple[bytes, ...]:
    """Points of a history that lie one behind the other."""
    whole = bytes(joined)
    return tuple(whole[at : at + POINT_BYTES] for at in range(0, len(whole), POINT_BYTES))

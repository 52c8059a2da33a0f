"""What the ledger tells: pages of sessions, a session with its turns, a turn with its generations. These block.

`owner` None sees everything; anyone else sees what their own key asked for, and the rest is not there for them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.db.models import Count, Q, QuerySet, Sum

from mlxd.ledger.models import Generation, Memory, Session, Spoken, Turn
from mlxd.ledger.rows import POINT_BYTES

type Row = dict[str, Any]

MAX_CHILDREN = 200


def sessions(owner: str | None, limit: int, before: tuple[float, str] | None) -> list[Row]:
    """Sessions, the last touched first; `before` is the (Unix time, id) of the last one seen."""
    found = _of(Session.objects.all(), owner)
    if before is not None:
        touched_at = datetime.fromtimestamp(before[0], tz=UTC)
        found = found.filter(Q(touched_at__lt=touched_at) | Q(touched_at=touched_at, id__lt=before[1]))
    page = list(found.order_by("-touched_at", "-id")[:limit])
    counted = Turn.objects.filter(session__in=[row.id for row in page]).values_list("session").annotate(Count("id"))
    turns = dict(counted)  # of a page alone: of all sessions it took as long as there are turns
    return [_session(row) | {"turns": turns.get(row.id, 0)} for row in page]


def session(owner: str | None, session_id: str, limit: int, before: int | None) -> Row | None:
    """A session and its turns, the newest first; `before` is the number of the last one seen."""
    found = _of(Session.objects.filter(id=session_id), owner).first()
    if found is None:
        return None
    turns = found.turns.order_by("-id").defer("hashes", "head", "tools").prefetch_related("generations")
    if before is not None:
        turns = turns.filter(id__lt=before)
    return _session(found) | {"turns": [_turn(row) for row in turns[:limit]]}


def turn(owner: str | None, turn_id: str) -> Row | None:
    """A turn, what it cost, the texts where it left what was stored, and the turns that go on from it."""
    rows = _of(Turn.objects.filter(public_id=turn_id), owner)
    found = rows.prefetch_related("generations__difference").first()
    if found is None:
        return None
    children = _of(Turn.objects.filter(parent=turn_id), owner).order_by("id")
    told = _turn(found)
    for generation, row in zip(told["generations"], found.generations.all(), strict=True):
        if generation["diverged"] is not None:
            generation["diverged"] |= _texts(row)
    return told | {"children": list(children.values_list("public_id", flat=True)[:MAX_CHILDREN])}


def content() -> dict[str, int]:
    """How much of what was said and read is kept."""
    spoken, memories = (table.objects.aggregate(count=Count("pk"), total=Sum("size")) for table in (Spoken, Memory))
    return {
        "turns": spoken["count"],
        "bytes": spoken["total"] or 0,
        "memories": memories["count"],
        "memory_bytes": memories["total"] or 0,
    }


def session_owner(session_id: str) -> str | None:
    """Whose a session is; None for one that has no turn."""
    return Session.objects.filter(id=session_id).values_list("owner", flat=True).first()


def _of[R: (Session, Turn)](rows: QuerySet[R], owner: str | None) -> QuerySet[R]:
    return rows if owner is None else rows.filter(owner=owner)


def _session(row: Session) -> Row:
    return {
        "id": row.id,
        "named": row.named,
        "owner": row.owner or None,
        "began_s": row.began_at.timestamp(),
        "touched_s": row.touched_at.timestamp(),
    }


def _turn(row: Turn) -> Row:
    return {
        "id": row.public_id,
        "number": row.pk,
        "session": row.session_id,
        "line": row.line,
        "parent": row.parent or None,
        "beside": row.beside or None,
        "edge": row.edge,
        "messages": row.messages,
        "known_messages": row.known_messages,
        "answers": len(bytes(row.ends)) // POINT_BYTES,
        "at_s": row.at.timestamp(),
        "generations": [_generation(generation) for generation in row.generations.all()],
    }


def _generation(row: Generation) -> Row:
    figures = (
        "model", "outcome", "verdict", "prompt_tokens", "cached_tokens", "prefilled_tokens", "lost_tokens",
        "completion_tokens", "reasoning_tokens", "malformed_calls", "queue_s", "prefill_s", "decode_s", "total_s",
    )  # fmt: skip
    diverged = None
    if row.diverged_token is not None:
        diverged = {
            "token": row.diverged_token,
            "message": row.diverged_message,
            "path": row.diverged_path,
            "rule": row.diverged_rule,
        }
    told: Row = {name: getattr(row, name) for name in figures}
    return {"request_id": row.request_id, **told, "diverged": diverged, "began_s": row.began_at.timestamp()}


def _texts(row: Generation) -> Row:
    """What stood where a generation's prompt left its session; nothing if it is not kept any more."""
    found = getattr(row, "difference", None)
    return {} if found is None else {"before": found.before, "sent": found.sent, "stored": found.stored}

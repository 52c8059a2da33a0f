"""Where the requests of two turns part, by what is kept of them: a hash for each message, the model's own answers, and
a few words around the place where a prompt left its session. These block.

A turn has the hashes of its last messages; the others are found by way of the turn that it edits or goes on from. Turns
of an earlier version that began like another, and named none, have too few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlxd.ledger import read, spoken_bytes
from mlxd.ledger.models import Spoken
from mlxd.ledger.models import Turn as TurnRow
from mlxd.ledger.rows import points_of
from mlxd.ledger.sealed import Unreadable

MAX_ANCESTORS: Final = 2000

type Row = dict[str, Any]


@dataclass(slots=True)
class Known:
    """What is known of a turn's messages: the `points` behind them by number, and whose answer one is."""

    row: TurnRow
    points: dict[int, bytes] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)
    heads: int = 0


def compared(left_id: str, right_id: str) -> Row | None:
    """Two turns at the first message that differs; None where one of them is not known.

    `message` is None where one begins with the other. Where it is not `exact` it may be any from `messages_in_common`
    on up to it: turns on the way to it are not kept any more.
    """
    found = [TurnRow.objects.filter(public_id=one).first() for one in (left_id, right_id)]
    if found[0] is None or found[1] is None:
        return None
    left, right = (_known(one) for one in found if one is not None)
    _find_heads(left, right.points)
    _find_heads(right, left.points)
    both = left.points.keys() & right.points.keys()
    instructed = bytes(left.row.head) == bytes(right.row.head) != b""
    common = max((at + 1 for at in both if left.points[at] == right.points[at]), default=int(instructed))
    differing = min((at for at in both if left.points[at] != right.points[at]), default=None)
    return {
        "messages_in_common": common,
        "message": differing,
        "exact": (min(left.row.messages, right.row.messages) if differing is None else differing) == common,
        "tools_differ": bytes(left.row.tools) != bytes(right.row.tools),
        "left": _side(left, differing),
        "right": _side(right, differing),
    }


def _known(row: TurnRow) -> Known:
    """All that is known of a turn's messages, from itself and from whom it goes on from."""
    known, agreed, at = Known(row), row.messages, row
    for _ in range(MAX_ANCESTORS):
        points = points_of(at.hashes)
        own = enumerate(points, at.messages - len(points))
        known.points = {number: point for number, point in own if number < agreed} | known.points
        agreed = min(agreed, at.messages - len(points))
        before = _before(at) if agreed else None
        if before is None:
            return known
        ends = points_of(before.ends)
        if before.messages < agreed and len(ends) == 1:  # the answer to it stands behind its own messages
            known.points.setdefault(before.messages, ends[0])
        if before.messages < agreed or known.points.get(before.messages) in ends:
            known.answers[before.messages] = before.public_id
        at = before
    return known


def _before(row: TurnRow) -> TurnRow | None:
    """The turn that goes along with this one for longest, of those that are kept."""
    edited = row.beside if row.edge == "edit" else ""
    return TurnRow.objects.filter(public_id=edited or row.parent).first() if edited or row.parent else None


def _find_heads(known: Known, others: Mapping[int, bytes]) -> None:
    """How many messages are instructions: the point behind them is kept by itself, and so is known in the other one
    where both have them in common."""
    head = bytes(known.row.head)
    at = next((at for at, point in {**others, **known.points}.items() if head and point == head), None)
    if at is not None:
        known.heads = at + 1
        known.points.setdefault(at, head)


def _side(known: Known, message: int | None) -> Row:
    told = read.turn(None, known.row.public_id) or {}
    recorded = [one["diverged"] for one in told.get("generations", ()) if one["diverged"] is not None]
    side = {
        "turn": known.row.public_id,
        "session": known.row.session_id,
        "messages": known.row.messages,
        "role": None,
        "text": None,
        "diverged": recorded[0] if recorded else None,
    }
    if message is None:
        return side
    if message in known.answers:
        return side | {"role": "assistant", "text": _answer(known.answers[message])}
    return side | {"role": "system" if message < known.heads else None}


def _answer(turn_id: str) -> str | None:
    """What the model said, where it is kept and was one answer."""
    said = list(Spoken.objects.filter(turn__public_id=turn_id).values_list("body", "place")[:2])
    if len(said) != 1:
        return None
    ((body, place),) = said
    turn = spoken_bytes.decoded(bytes(body), bytes(place))
    return None if isinstance(turn, Unreadable) else turn.text

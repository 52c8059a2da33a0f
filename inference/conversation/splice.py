"""Puts the ids of a turn in the place of its text: from the end of the header to the marker that ends the turn.

A turn to be spliced goes into the render as a dummy of the same shape: the same calls by name and number, a sentinel
for its thought, its text and its arguments. Where these sentinels come out is where the turn stands; the header is
looked for in the template's text before the first, the end marker in that behind the last. Whether the sentinel of the
thought came out tells whether the template shows the thoughts of this turn. Client text takes no part in any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from inference.conversation.sentinels import Piece, Text
from inference.conversation.shape import Seams
from inference.conversation.spoken import RawTurn
from inference.conversation.turns import Turn
from inference.messages import Role
from inference.tokens import TokenIds

_PLACE = "\0spoken"
_THOUGHT = "\0thought"
"""Paths that no client can write: a path in a request holds no NUL."""


def dummy(turn: Turn, raw: RawTurn) -> Turn:
    """What is rendered in the place of a turn whose ids are known."""
    here = Text("spoken", _PLACE, turn.message)
    arguments = replace(here, text='{"spoken": "spoken"}')
    return replace(
        turn,
        parts=(here,) if any(part.text.strip() for part in turn.parts) else turn.parts,
        reasoning=(Text("thought", _THOUGHT, turn.message),) if raw.thinks else (),
        calls=tuple(replace(call, arguments=arguments) for call in turn.calls),
    )


@dataclass(frozen=True, slots=True)
class Region:
    """Where a turn stands: the pieces `first` to `last`, with the text up to `opened` before and from `closed` behind.

    `shows_thought`: the template shows the thought of this turn. Where it does not, it may write an empty one in its
    place, which ends at `emptied`.
    """

    first: int
    last: int
    opened: int
    emptied: int
    closed: int
    shows_thought: bool

    def filled(self, raw: RawTurn) -> tuple[int, TokenIds] | None:
        """Up to where the text before stays, and what the model reads behind it; None where the template wants the
        thought out and it cannot be taken out.

        A turn whose thought is shown goes on behind its header and what this held of a thought; so does one whose
        header held an empty thought where the template writes such too. A turn that never had a thought goes on right
        behind its header, whatever the template makes of that.
        """
        is_empty = bool(raw.opener) and raw.thought_tokens == 0
        if self.shows_thought or (is_empty and self.emptied > self.opened):
            return self.opened, raw.opener + raw.ids
        if raw.thought_tokens is None:
            return None
        return self.emptied if raw.thinks else self.opened, raw.ids[raw.thought_tokens :]


def splice(
    pieces: Sequence[Piece], turns: Sequence[Turn], raw: Mapping[int, RawTurn], seams: Seams
) -> tuple[tuple[Piece, ...], frozenset[int]]:
    """The pieces with ids in the place of the turns in `raw`, and the numbers of those for which there was no place.

    `turns` are all turns of the conversation, which were rendered as their dummies where `raw` has them.
    """
    texts = [piece.text for piece in pieces]
    starts = [0] * len(pieces)
    filled: dict[int, Piece] = {}
    gone: set[int] = set()
    failed: set[int] = set()
    places = _places(pieces)
    for turn in (turn for turn in turns if turn.message in raw):
        region = _region(pieces, turn, places.get(turn.message, ()), seams)
        stand = None if region is None else region.filled(raw[turn.message])
        if region is None or stand is None or region.opened < starts[region.first - 1]:
            failed.add(turn.message)
            continue
        cut, ids = stand
        texts[region.first - 1] = texts[region.first - 1][:cut]
        starts[region.last + 1] = region.closed
        gone.update(range(region.first, region.last + 1))
        filled[region.first] = Piece("", Text("", turn.path, turn.message), ids)
    result = [
        filled.get(at) or replace(piece, text=texts[at][starts[at] :])
        for at, piece in enumerate(pieces)
        if at in filled or at not in gone
    ]
    return tuple(result), frozenset(failed)


def _places(pieces: Sequence[Piece]) -> dict[int, list[int]]:
    """The pieces that stand for each turn."""
    places: dict[int, list[int]] = {}
    for at, piece in enumerate(pieces):
        if piece.source is not None and piece.source.path.startswith((_PLACE, _THOUGHT)):
            places.setdefault(piece.source.message, []).append(at)
    return places


def _region(pieces: Sequence[Piece], turn: Turn, at: Sequence[int], seams: Seams) -> Region | None:
    if not at:
        return None
    own = {name for call in turn.calls for name in (call.name, call.id)}
    if any(not _may_stand_in(piece, turn, own) for piece in pieces[at[0] : at[-1]]):
        return None

    def seek(numbers: Iterable[int], find: Callable[[str], int | None]) -> tuple[int, int] | None:
        """The first piece of the template, and the place in it, in which `find` is lucky; only what belongs to the
        turn may stand on the way."""
        for number in numbers:
            piece = pieces[number]
            if not _may_stand_in(piece, turn, own):
                return None
            if piece.source is None and (place := find(piece.text)) is not None:
                return number, place
        return None

    opened = seek(range(at[0] - 1, -1, -1), lambda text: _opened(text, seams))
    closed = seek(range(at[-1] + 1, len(pieces)), lambda text: _closed(text, seams))
    if opened is None or closed is None:
        return None
    shows = any(piece.source is not None and piece.source.path == _THOUGHT for piece in pieces[at[0] : at[-1] + 1])
    emptied = _emptied(pieces[opened[0]].text, opened[1], seams)
    return Region(opened[0] + 1, closed[0] - 1, opened[1], emptied, closed[1], shows)


def _opened(text: str, seams: Seams) -> int | None:
    """Where a header that stands last in `text` ends."""
    return max((at + len(one) for one in seams.openings if (at := text.rfind(one)) >= 0), default=None)


def _emptied(text: str, opened: int, seams: Seams) -> int:
    """Where a thought that the template left empty ends, with the line feeds behind it; `opened` without one."""
    found = max((at + len(one) for one in seams.thought_ends if (at := text.rfind(one, opened)) >= 0), default=None)
    return opened if found is None else len(text) - len(text[found:].lstrip("\n"))


def _closed(text: str, seams: Seams) -> int | None:
    """Where the first end marker in `text` begins."""
    return min((at for one in seams.closings if (at := text.find(one)) >= 0), default=None)


def _may_stand_in(piece: Piece, turn: Turn, own: set[str]) -> bool:
    """The template's text, the turn's own fields, names that are sentinels, and words of ours between them."""
    source = piece.source
    if source is None or source.message == turn.message or source.text in own:
        return True
    return source.message < 0 and not source.path


def dummies(turns: Sequence[Turn], raw: Mapping[int, RawTurn]) -> list[Turn]:
    """All turns, as dummies where their ids are known."""
    return [
        dummy(turn, raw[turn.message]) if turn.message in raw and turn.role is Role.ASSISTANT else turn
        for turn in turns
    ]

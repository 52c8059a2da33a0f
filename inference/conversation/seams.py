"""Finds out, once per model, between which texts of its template a past turn stands, and whether ids can go there.

Tried on a small conversation: what the template writes around the turns must be the same whether these are rendered
as dummies or as they were sent, and each must have a place of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from inference.conversation.compose import Composed
from inference.conversation.sentinels import Text
from inference.conversation.shape import Seams
from inference.conversation.splice import dummies, splice
from inference.conversation.spoken import RawTurn
from inference.conversation.turns import Call, ThinkTags, Turn
from inference.messages import Role

Ask = Callable[[Sequence[Turn]], Composed | None]
"""The render of a few turns; None when the template refuses them or drops something."""

_RAW = RawTurn.of((1,), opener=(1,), thought_tokens=1)
_ID = "call_first_0001"


def _said(role: Role, number: int, reasoning: str = "", *calls: Call) -> Turn:
    path = f"messages[{number}]"
    thought = (Text(reasoning, f"{path}.reasoning_content", number),) if reasoning else ()
    parts = () if calls else (Text(f"word {number}", f"{path}.content", number),)
    return Turn(role, parts, thought, calls, path=path, message=number)


_USER, _ANSWER = _said(Role.USER, 0), _said(Role.ASSISTANT, 1, "a thought")
_CALL = Call(_ID, "look", Text('{"place": "word"}', "messages[3].arguments", 3))
_CALLING = _said(Role.ASSISTANT, 3, "a thought", _CALL)
_RESULT = Turn(Role.TOOL, (Text("word 4", "messages[4]", 4),), call_id=_ID, name=Text("look"), message=4)
_TALK = (_USER, _ANSWER, _said(Role.USER, 2))
_LOOP = (_CALLING, _RESULT)
_END = (_said(Role.ASSISTANT, 5, "a thought"), _said(Role.USER, 6))


def find_seams(ask: Ask, think: Sequence[ThinkTags], structural: Sequence[str], ends: Iterable[str]) -> Seams | None:
    """The seams of a template. `think` are markers of thoughts, `ends` the texts of the ids that end a turn.

    None where past turns cannot be put back as ids.
    """
    plain = ask(_TALK)
    if plain is None:
        return None
    loop = ask((*_TALK, *_LOOP))
    openings = {
        _opening(made, [opener for opener, _ in think], structural) for made in (plain, loop) if made is not None
    } - {""}
    closings = {*filter(None, ends), _closing(plain, structural)} - {""}
    seams = Seams(tuple(sorted(openings)), tuple(sorted(closings)), tuple(closer for _, closer in think))
    talks = [(*_TALK, *_END)] if loop is None else [(*_TALK, *_END), (*_TALK, *_LOOP), (*_TALK, *_LOOP, *_END)]
    return seams if all(_fits(ask, talk, seams) for talk in talks) else None


def _opening(made: Composed, openers: Iterable[str], structural: Iterable[str]) -> str:
    """The text behind which a turn begins: the generation header up to the opener of a thought; where the template
    has no header, the marker that ends what was asked."""
    last = made.pieces[-1].text if made.pieces and made.pieces[-1].source is None else ""
    header = made.tail or max((one for one in structural if one and last.endswith(one)), key=len, default="")
    found = [at for opener in openers if (at := header.find(opener)) >= 0]
    return header[: min(found)] if found else header


def _closing(made: Composed, structural: Iterable[str]) -> str:
    """The marker right behind an answer."""
    at = [
        number
        for number, piece in enumerate(made.pieces)
        if piece.source and piece.source.path == "messages[1].content"
    ]
    behind = made.pieces[at[-1] + 1].text.lstrip() if at and at[-1] + 1 < len(made.pieces) else ""
    return max((marker for marker in structural if marker and behind.startswith(marker)), key=len, default="")


def _fits(ask: Ask, talk: Sequence[Turn], seams: Seams) -> bool:
    raw = {turn.message: _RAW for turn in talk if turn.role is Role.ASSISTANT}
    sent, made = ask(talk), ask(dummies(talk, raw))
    if sent is None or made is None:
        return False
    pieces, failed = splice(made.pieces, talk, raw, seams)
    outside = "".join("(?s:.*?)" if piece.ids is not None else re.escape(piece.text) for piece in pieces)
    return not failed and re.fullmatch(outside, "".join(piece.text for piece in sent.pieces)) is not None

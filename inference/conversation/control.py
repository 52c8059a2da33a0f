"""Asks a chat template what it lets a request say about thinking: small conversations, rendered in every way.

Names alone tell little: templates give their arguments defaults of their own (`{% set enable_thinking = true %}`),
and read some that change nothing. So an argument counts when the prompt is another one with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from inference.conversation.sentinels import Piece
from inference.conversation.shape import ThinkingControl

Try = Callable[[Mapping[str, bool | int | float | str]], Sequence[Piece] | None]
"""The pieces one fixed conversation becomes with these arguments; None when the template refuses them."""

SWITCHES = ("enable_thinking", "thinking", "reasoning")
BUDGETS = ("thinking_budget", "reasoning_budget")
KEEPERS = (
    ("preserve_thinking", True),
    ("clear_thinking", False),
    ("preserve_reasoning", True),
    ("keep_past_thinking", True),
    ("truncate_history_thinking", False),
    ("drop_thinking", False),
)
"""Arguments under which templates keep the reasoning of old turns, each with the value that does."""

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Words for how much to think, the least first."""

COMMON_EFFORTS = ("low", "medium", "high")
"""What models whose template writes any word into the prompt have been trained on."""

_NONSENSE = "zqx"
_SOME_TOKENS = 512


def probe_control(question: Try, past: Try, answers: Sequence[Try], literals: str, closer: str) -> ThinkingControl:
    """What the template knows of thinking.

    `question` renders a single user message, `past` an answer with reasoning and a user message behind it, `answers`
    render such answers where templates show the reasoning if anywhere. `literals` are the template's own texts,
    separated by NUL; `closer` ends a thought ("" where that is not known).
    """
    return ThinkingControl(
        switch=next((name for name in SWITCHES if _differ(question, {name: True}, {name: False})), ""),
        efforts=_efforts(question, literals),
        budget=next((name for name in BUDGETS if _differ(question, {}, {name: _SOME_TOKENS})), ""),
        keeper=next(((name, keep) for name, keep in KEEPERS if _keeps(past, name, keep)), None),
        keeps=_shows_reasoning(past({})),
        closing=next(filter(None, (_closing(answer({}), closer) for answer in answers)), ""),
    )


def _text(pieces: Sequence[Piece] | None) -> str | None:
    return None if pieces is None else "".join(piece.text for piece in pieces)


def _differ(question: Try, one: Mapping[str, bool | int], other: Mapping[str, bool | int]) -> bool:
    first, second = _text(question(one)), _text(question(other))
    return None not in (first, second) and first != second


def _efforts(question: Try, literals: str) -> tuple[str, ...]:
    """The words that make a difference: those a template compares with, the common ones where it writes any word."""
    shown = {word: text for word in EFFORTS if (text := _text(question({"reasoning_effort": word}))) is not None}
    if len(set(shown.values())) < 2:
        return ()
    nonsense = _text(question({"reasoning_effort": _NONSENSE}))
    if nonsense is not None and _NONSENSE in nonsense:
        return tuple(word for word in shown if word in COMMON_EFFORTS)
    compared = set(literals.split("\0"))
    return tuple(word for word in shown if word in compared) or tuple(shown)


def _shows_reasoning(pieces: Sequence[Piece] | None) -> bool:
    return any(piece.source is not None and "reasoning" in piece.source.path for piece in pieces or ())


def _keeps(past: Try, name: str, keep: bool) -> bool:
    return _shows_reasoning(past({name: keep})) and not _shows_reasoning(past({name: not keep}))


def _closing(pieces: Sequence[Piece] | None, closer: str) -> str:
    """What the template writes between a thought and the answer behind it."""
    ends = [at for at, piece in enumerate(pieces or ()) if piece.source and "reasoning" in piece.source.path]
    if not (pieces and ends and closer):
        return ""
    between = ""
    for piece in pieces[ends[-1] + 1 :]:
        if piece.source is not None:
            break
        between += piece.text
    return between if closer in between else ""

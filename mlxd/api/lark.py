"""Pieces of grammar in the Lark dialect of llguidance, each from text that a client wrote and none of it as syntax."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from inference.tokens import TokenIds

COMPACT: Final = {"whitespace_flexible": False}
"""`{"a":1}`: with free white space a model may fill the answer with it."""

SPACED: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""`{"a": 1}`: as chat templates write arguments, so as models have learned to."""

_CLASSES: Final = {"d": "[0-9]", "D": "[^0-9]", "w": "[0-9A-Za-z_]", "W": "[^0-9A-Za-z_]"}
"""What these mean in JSON schema; the library would match the digits and letters of all scripts."""

_PIECE: Final = re.compile(r"\\(.)|([/\n\r])|[^\\/\n\r]+", re.DOTALL)
_BREAKS: Final = {"/": r"\/", "\n": r"\n", "\r": r"\r"}


def literal(text: str) -> str:
    """A text as it stands."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", r"\u007f")  # the library's reader stops at a bare one


def regex(pattern: str) -> str:
    """A whole text that matches `pattern`. Raises `ValueError` where it ends in half an escape."""
    body = pattern.removeprefix("^")
    if body.endswith("$") and (len(body) - len(body[:-1].rstrip("\\"))) % 2:
        body = body[:-1]
    pieces: list[str] = []
    at = 0
    while at < len(body):
        piece = _PIECE.match(body, at)
        if piece is None:
            raise ValueError("it ends in half an escape")
        pieces.append(_CLASSES.get(piece[1], piece[0]) if piece[1] else _BREAKS.get(piece[2], piece[0]))
        at = piece.end()
    return f"/(?:{''.join(pieces)})/"


def json_node(schema: Mapping[str, Any], style: Mapping[str, Any] = COMPACT, *, lenient: bool = False) -> str:
    """JSON text that is valid under `schema`. `lenient`: keywords that no grammar can express are not enforced."""
    options = {**style, "lenient": True} if lenient else style
    return "%json " + json.dumps({**schema, "x-guidance": options}, ensure_ascii=False, separators=(",", ":"))


def text_until(rule: str, closing: str, closer: str, max_tokens: int | None = None) -> str:
    """The rule of a free text and the marker behind it, which the text does not hold.

    It has at most `max_tokens`, 1 and up, where the marker is one token: the library would leave out one of letters.
    """
    if closing.startswith("<[") and max_tokens is not None:
        return f"{rule}: {rule}_ {closing}\n{rule}_[max_tokens={max_tokens}]: /(?s:.*)/"
    if closing.startswith("<["):
        return f"{rule}: /(?s:.*)/ {closing}"
    return f"{rule}[suffix={literal(closer)}]: /(?s:.*)/"


def text_without(words: Sequence[str]) -> str:
    """The rule `content`: a free text, without special tokens, in which none of these words stands."""
    banned = "|".join(re.escape(word).replace("/", r"\/") for word in words)
    return f"content: FREE\nFREE: /(?s:.*)/ & ~/(?s:.*)(?:{banned})(?s:.*)/"


def marker(text: str, encode: Callable[[str], TokenIds]) -> str:
    """A marker of a model: its number where the model has it as one token, else its letters."""
    ids = encode(text)
    return f"<[{ids[0]}]>" if len(ids) == 1 else literal(text)

"""What the model really produced as one turn: its ids, and what the client was told of them.

Text is not enough to continue a conversation: encode(decode(ids)) need not be ids, and clients spell arguments anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from inference.conversation.text_model import TextModel
from inference.conversation.turns import ThinkTags
from inference.messages import ToolCall
from inference.ports import Tokenizer
from inference.tokens import Prompt, TokenIds


@dataclass(frozen=True, slots=True)
class RawTurn:
    """The ids of a turn, without the one that ended it; four bytes each, as they are kept and cross processes.

    `opener` are the ids at the end of the generation header that open a thought, or open and close an empty one. The
    first `thought_tokens` ids are the thought with its markers; None: thoughts stand elsewhere too.
    """

    packed: bytes
    opener: TokenIds = ()
    thought_tokens: int | None = 0

    @classmethod
    def of(cls, ids: Sequence[int], opener: TokenIds = (), thought_tokens: int | None = 0) -> RawTurn:
        return cls(array("I", ids).tobytes(), opener, thought_tokens)

    @property
    def ids(self) -> TokenIds:
        unpacked = array("I")
        unpacked.frombytes(self.packed)
        return tuple(unpacked)

    @property
    def thinks(self) -> bool:
        """A thought belongs to it, be it an empty one."""
        return bool(self.opener) or self.thought_tokens != 0


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """A finished turn. `text`, `reasoning` and `calls` are what was sent to the client, to the letter."""

    raw: RawTurn
    text: str = ""
    reasoning: str = ""
    calls: tuple[ToolCall, ...] = ()

    @property
    def nbytes(self) -> int:
        """About what it costs to keep."""
        strings = (self.text, self.reasoning, *(call.id + call.name + call.arguments for call in self.calls))
        return 500 + len(self.raw.packed) + 2 * sum(map(len, strings))


def raw_turn(text: TextModel, prompt: Prompt, ids: TokenIds, tags: ThinkTags | None, *, inside: bool) -> RawTurn | None:
    """The ids of an answer to `prompt`, its thought measured; None for a thought that never ended.

    `tags`: the markers that told thoughts from the answer, if any. `inside`: the answer began in a thought.
    """
    tokenizer = text.tokenizer
    if text.traits.channels:
        return _channel_turn(text, ids)
    if tags is None:
        return RawTurn.of(ids)
    opener, closer = map(tokenizer.encode_template, tags)
    header = () if prompt.header is None else prompt.ids[prompt.header :]
    at = find(header, opener)
    opening = header[at:] if at is not None else ()
    if not inside and find(ids[_blank(tokenizer, ids, 0) :], opener) != 0:
        elsewhere = find(ids, opener) is not None
        return RawTurn.of(ids, opening, None if elsewhere else 0)
    end = find(ids, closer)
    if end is None:
        return None
    end = _blank(tokenizer, ids, end + len(closer))
    rest = ids[end:]
    mixed = find(rest, opener) is not None or find(rest, closer) is not None
    return RawTurn.of(ids, opening, None if mixed else end)


def _channel_turn(text: TextModel, ids: TokenIds) -> RawTurn | None:
    """A model that thinks in a channel: what stands before its second message is the thought, if it is one."""
    encode = text.tokenizer.encode_template
    thought = encode("<|channel|>analysis")
    if find(ids, thought) != 0:
        return RawTurn.of(ids, thought_tokens=0 if find(ids, thought) is None else None)
    opening = encode(text.traits.header)
    at = find(ids, opening)
    if at is None:
        return None
    end = at + len(opening)
    return RawTurn.of(ids, thought_tokens=None if find(ids[end:], thought) is not None else end)


def find(ids: TokenIds, wanted: TokenIds) -> int | None:
    """Where `wanted` first stands in `ids`."""
    if not wanted:
        return None
    at = -1
    while True:
        try:
            at = ids.index(wanted[0], at + 1)
        except ValueError:
            return None
        if ids[at : at + len(wanted)] == wanted:
            return at


def _blank(tokenizer: Tokenizer, ids: TokenIds, at: int) -> int:
    """Behind the line feeds at `at`: they belong to a marker."""
    while at < len(ids) and not tokenizer.token_bytes(ids[at]).strip(b"\n"):
        at += 1
    return at

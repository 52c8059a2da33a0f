"""What the model really produced as one turn: its ids, and what the client was told of them.

Text is not enough to continue a conversation: encode(decode(ids)) need not be ids, and clients spell arguments anew.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

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
    if text.traits.channels:
        return _channel_turn(text, ids)
    if tags is None:
        return RawTurn.of(ids)
    opening, spelled = _opening(text, prompt, tags[0]), _Spelled(text.tokenizer, ids)
    opener, closer = (tag.encode() for tag in tags)
    if not inside and not spelled.written.lstrip(b"\n").startswith(opener):
        return RawTurn.of(ids, opening, None if opener in spelled.written else 0)
    end = spelled.end_of(closer)
    if end is None:
        return None
    rest = spelled.written[spelled.written.index(closer) + len(closer) :]
    mixed = end == 0 or opener in rest or closer in rest
    return RawTurn.of(ids, opening, None if mixed else end)


def _channel_turn(text: TextModel, ids: TokenIds) -> RawTurn | None:
    """A model that thinks in a channel: its first message is the thought, if it is one."""
    spelled, thought = _Spelled(text.tokenizer, ids), b"<|channel|>analysis"
    if not spelled.written.startswith(thought):
        return RawTurn.of(ids, thought_tokens=None if thought in spelled.written else 0)
    end = spelled.end_of(text.traits.header.encode())
    mixed = not end or spelled.written.count(thought) > 1
    return None if end is None else RawTurn.of(ids, thought_tokens=None if mixed else end)


def _opening(text: TextModel, prompt: Prompt, opener: str) -> TokenIds:
    """What stands in the generation header behind that of every turn: the opener of a thought, or an empty thought."""
    if prompt.header is None or text.traits.seams is None:
        return ()
    header, encode = prompt.ids[prompt.header :], text.tokenizer.encode_template
    stems = [encode(stem) for stem in text.traits.seams.openings]
    used = max((len(stem) for stem in stems if header[: len(stem)] == stem), default=len(header))
    return header[used:] if opener.encode() in b"".join(map(text.tokenizer.token_bytes, header[used:])) else ()


class _Spelled:
    """Ids with what they stand for: a marker may be one id or several, as a model happens to write it."""

    def __init__(self, tokenizer: Tokenizer, ids: TokenIds) -> None:
        spelled = [tokenizer.token_bytes(number) for number in ids]
        self.written = b"".join(spelled)
        self._ends = list(accumulate(map(len, spelled)))

    def end_of(self, marker: bytes) -> int | None:
        """How many ids it takes up to the end of the first `marker`, with the line feeds behind it as far as they are
        ids of their own; 0 where that end stands within an id, None where there is no marker."""
        at = self.written.find(marker)
        if at < 0:
            return None
        at += len(marker)
        blank = len(self.written) - len(self.written[at:].lstrip(b"\n"))
        count = bisect_right(self._ends, blank)
        return count if count and self._ends[count - 1] >= at else 0

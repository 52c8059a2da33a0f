"""Token ids in their roles: `Prompt` is what the model reads, and what the cache is searched with.

`KVOffset` is the physical length of a KV cache and the only thing that slices a `Prompt`.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import NewType

TokenIds = tuple[int, ...]
KVOffset = NewType("KVOffset", int)
"""Physical KV length in tokens = RoPE position of the next token."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens `start` to `stop` (exclusive) came from `path` of the request, e.g. `messages[3].content[0].text`.

    `path` "" is text of the chat template itself.
    """

    start: int
    stop: int
    path: str


@dataclass(frozen=True, slots=True)
class SourceMap:
    """Which place in the request each token of a `Prompt` came from. `spans` are sorted, adjacent and complete."""

    spans: tuple[Span, ...] = ()

    def at(self, token_index: int) -> Span | None:
        """The span that holds a token, or None past the end."""
        at = bisect_right(self.spans, token_index, key=lambda span: span.start) - 1
        return self.spans[at] if at >= 0 and token_index < self.spans[at].stop else None


@dataclass(frozen=True, slots=True)
class Boundary:
    """`token` is the index of the first token whose source is message number `message`."""

    message: int
    token: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids the model reads. Never used to search the cache.

    `header` is where the generation header (the opening of the assistant's turn) begins, None when the prompt has none;
    the last `opener_tokens` of it open a thought. `last_user_message` is the number of the user's last message.
    """

    ids: TokenIds
    boundaries: tuple[Boundary, ...] = ()
    source: SourceMap = field(default_factory=SourceMap)
    header: int | None = None
    opener_tokens: int = 0
    last_user_message: int | None = None

    def after(self, offset: KVOffset) -> TokenIds:
        """The ids still to be computed when `offset` tokens are in the KV cache."""
        return self.ids[offset:]

    def __len__(self) -> int:
        return len(self.ids)

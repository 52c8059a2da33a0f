"""A lookup in words: which message and field the first token came from that is not stored, and what stands there."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from inference.events import Explained
from inference.ports import Tokenizer
from inference.tokens import Prompt
from mlxd.api.stable_prefix import whole_messages

AROUND_TOKENS: Final = 16


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a prompt leaves what is stored. `path` is of the request, "" is text of the chat template.

    `message` is None before the first one. `before` is common, then the request has `sent` and the store `stored`.
    """

    token: int
    message: int | None
    path: str
    before: str
    sent: str
    stored: str


@dataclass(frozen=True, slots=True)
class CacheExplanation:
    """`prefill_tokens` would be computed. `matched_tokens` are stored; a model may be able to resume only before that.

    `stable_prefix_msg_count` of `messages` are wholly within what would be reused. Without a `divergence` the prompt
    ends within what is stored, or goes on where that ends.
    """

    prompt_tokens: int
    cached_tokens: int
    prefill_tokens: int
    kv: str
    verdict: str
    lost_tokens: int
    matched_tokens: int
    messages: int
    stable_prefix_msg_count: int
    divergence: Divergence | None


def explained(prompt: Prompt, found: Explained, tokenizer: Tokenizer) -> CacheExplanation:
    """A lookup of `prompt` as an answer to a person."""
    cached = found.looked.cached_tokens
    return CacheExplanation(
        prompt_tokens=len(prompt),
        cached_tokens=cached,
        prefill_tokens=len(prompt) - cached,
        kv=found.looked.warmth.value,
        verdict=found.looked.verdict,
        lost_tokens=found.looked.lost_tokens,
        matched_tokens=found.matched_tokens,
        messages=len(prompt.boundaries),
        stable_prefix_msg_count=whole_messages(prompt, cached),
        divergence=_divergence(prompt, found, tokenizer),
    )


def _divergence(prompt: Prompt, found: Explained, tokenizer: Tokenizer) -> Divergence | None:
    at, ids = found.matched_tokens, prompt.ids
    if not found.stored_next or at >= len(ids) or ids[at] == found.stored_next[0]:
        return None
    span = prompt.source.at(at)
    begun = [boundary.message for boundary in prompt.boundaries if boundary.token <= at]
    return Divergence(
        token=at,
        message=begun[-1] if begun else None,
        path="" if span is None else span.path,
        before=_text(tokenizer, ids[max(0, at - AROUND_TOKENS) : at]),
        sent=_text(tokenizer, ids[at : at + AROUND_TOKENS]),
        stored=_text(tokenizer, found.stored_next[:AROUND_TOKENS]),
    )


def _text(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """Markers included, and borders within a character shown as such."""
    return b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")

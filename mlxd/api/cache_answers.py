"""A lookup in words: which message and field the first token came from that is not stored, and what stands there."""

from __future__ import annotations

from dataclasses import dataclass

from inference.conversation.difference import Difference
from inference.events import Explained, Parting
from inference.tokens import Prompt
from mlxd.api.stable_prefix import whole_messages
from mlxd.ledger.witness import Observed, is_diverged


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where a prompt leaves what is stored. `path` is of the request, "" is text of the chat template.

    `message` is None before the first one, `rule` the volatile rule that found the text there. `before` is common, then
    the request has `sent` and the store `stored`.
    """

    token: int
    message: int | None
    path: str
    rule: str
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


def explained(prompt: Prompt, found: Explained, observed: Observed) -> CacheExplanation:
    """A lookup of `prompt` as an answer to a person."""
    cached, verdict = found.looked.cached_tokens, found.looked.verdict
    differs = observed.difference(_parting(prompt, found))
    return CacheExplanation(
        prompt_tokens=len(prompt),
        cached_tokens=cached,
        prefill_tokens=len(prompt) - cached,
        kv=found.looked.warmth.value,
        verdict=str(differs) if differs is not None and is_diverged(verdict) else verdict,
        lost_tokens=found.looked.lost_tokens,
        matched_tokens=found.matched_tokens,
        messages=len(prompt.boundaries),
        stable_prefix_msg_count=whole_messages(prompt, cached),
        divergence=None if differs is None else _divergence(differs),
    )


def _parting(prompt: Prompt, found: Explained) -> Parting | None:
    """Where the prompt leaves its session, else where it leaves what others have stored."""
    at, ids = found.matched_tokens, prompt.ids
    if found.looked.parting is not None:
        return found.looked.parting
    differs = found.stored_next and at < len(ids) and ids[at] != found.stored_next[0]
    return Parting(at, found.stored_next) if differs else None


def _divergence(found: Difference) -> Divergence:
    return Divergence(
        token=found.token,
        message=found.message,
        path=found.path,
        rule=found.rule,
        before=found.before,
        sent=found.sent,
        stored=found.stored,
    )

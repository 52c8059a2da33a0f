"""What a generation says while it runs. Streamed and folded replies are both made from exactly these events.

The order is: `Admitted`, any number of `PrefillProgress`, any number of `Delta` and `ToolCallDelta`, then one
`Finished` or one `Failed`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from inference.errors import InferenceError


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"


class Channel(StrEnum):
    """Which part of an answer a piece of text belongs to."""

    REASONING = "reasoning"
    CONTENT = "content"
    TOOL_CALL = "tool_call"


@dataclass(frozen=True, slots=True)
class Parting:
    """Where a prompt leaves the last request of its session: at token `token`, where `stored` was read instead.

    `stored` is empty where that request ended there.
    """

    token: int
    stored: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts and times of one generation.

    `cached_tokens` of `prompt_tokens` were not computed again: what is left when those that the model was called with
    are taken off. `verdict` says why it was not more, `lost_tokens` how many were computed a second time, and `parting`
    where it left its session, if it did.
    `completion_tokens` counts sampled tokens except the one that ended the turn. Times are seconds by the monotonic
    clock.
    """

    prompt_tokens: int
    cached_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    verdict: str = "none"
    lost_tokens: int = 0
    parting: Parting | None = None

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    @property
    def decode_tps(self) -> float:
        """Tokens per second of the answer, the time to the first token left out."""
        return self.completion_tokens / self.decode_s if self.decode_s > 0 else 0.0

    @property
    def prefill_tps(self) -> float:
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prefill_s if self.prefill_s > 0 else 0.0


class Warmth(StrEnum):
    """What a request began with: nothing, blocks, blocks and a recurrent state, or no store to ask."""

    FRESH = "fresh"
    HIT = "hit"
    SNAPSHOT = "snapshot"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Looked:
    """What a store has of a prompt. `cached_tokens` need not be computed; `verdict` says why not more.

    `lost_tokens` were computed before and have to be computed again. `parting` is where it leaves its session.
    """

    warmth: Warmth = Warmth.DISABLED
    cached_tokens: int = 0
    verdict: str = "disabled"
    lost_tokens: int = 0
    parting: Parting | None = None


@dataclass(frozen=True, slots=True)
class Explained:
    """A lookup in detail. Of the prompt `matched_tokens` are stored as they are; `stored_next` are ids stored there.

    `stored_next` is empty where nothing goes on behind the match.
    """

    looked: Looked = Looked()
    matched_tokens: int = 0
    stored_next: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Admitted:
    """The request has its place, and this is how warm it would begin now.

    `warmth` is fresh, hit, snapshot or disabled, `verdict` says why it is not more; both are `none` where nobody knows.
    `parting` is where it leaves its session.
    """

    request_id: str
    prompt_tokens: int
    cached_tokens: int = 0
    verdict: str = "none"
    warmth: str = "none"
    parting: Parting | None = None

    @property
    def to_compute_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens


@dataclass(frozen=True, slots=True)
class PrefillProgress:
    """`done_tokens` of `total_tokens` prompt tokens are in the KV cache."""

    done_tokens: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A drawn token's natural log-probability under the model's own, unmodified distribution.

    `top` holds the most likely (token id, log-probability) pairs, best first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of the answer. `token_count` tokens became text with it (0 when it was only held back before).

    `choice` numbers the answers of one request from 0.
    """

    text: str
    token_count: int = 1
    channel: Channel = Channel.CONTENT
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A call or a piece of one. `index` counts the calls of one answer from 0.

    The first piece of a call has its `id` and `name`, later ones have "" there; all `arguments` of one index together
    are the JSON text of an object. `token_count` and `choice` are those of `Delta`.
    """

    index: int
    id: str
    name: str
    arguments: str
    token_count: int = 1
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """`malformed_calls`: how often something began like a tool call and could not be read; it is in the content.

    Of several choices each has its own; `usage` of the last one counts them all.
    """

    reason: FinishReason
    usage: Usage
    malformed_calls: int = 0
    choice: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    error: InferenceError


Event = Admitted | PrefillProgress | Delta | ToolCallDelta | Finished | Failed

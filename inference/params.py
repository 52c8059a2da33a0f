"""What a request may ask of generation: frozen values, ranges checked at the edge, no defaults of a model in here."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one token is drawn from the logits.

    `temperature` 0 is greedy. `top_p` 1, `top_k` 0 and `min_p` 0 switch the filter off. `repetition_penalty` is
    multiplicative (1 is off), `presence_penalty` and `frequency_penalty` are additive (0 is off); all three look at
    the last `penalty_context_tokens` tokens of prompt and answer. `seed` None draws from a fresh random stream;
    a seed keys the stream by (seed, position), so a row's draws do not depend on its neighbours in the batch.
    `logit_bias` holds (token id, what is added to its logit), each id once.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_context_tokens: int = 256
    seed: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class StopConditions:
    """When an answer ends, besides the model's own end-of-turn ids.

    `strings` are cut from the text (the answer ends before them); `token_ids` end the answer and are not shown.
    """

    strings: tuple[str, ...] = ()
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer's text must match: a grammar in the Lark dialect of llguidance, for the text behind any thought.

    `param` is the field of the request it came from; a grammar that cannot be compiled is told under this name.
    """

    lark: str
    param: str


@dataclass(frozen=True, slots=True)
class KVQuantisation:
    """Keys and values in `bits` (4 or 8) with one scale per `group_size` values, from token `start_tokens` on."""

    bits: int
    group_size: int = 64
    start_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CacheScope:
    """With whom a request shares what was computed, and what a miss is told by. KV depends on ids, model and `salt`.

    `salt` parts clients that must not learn of each other. `template` is the digest of the model's text side. `session`
    names the conversation, "" when nobody knows. A `one_shot` (a title, a commit message) never pushes out others.
    """

    salt: bytes = b""
    template: str = ""
    session: str = ""
    one_shot: bool = False


@dataclass(frozen=True, slots=True)
class GenerationParams:
    """Everything about one generation that is not its prompt.

    `max_tokens` None means the room left in the context. `deadline_s` None means no wall-clock limit. Before
    `min_tokens` no end-of-turn or stop id is drawn; with `ignore_eos` none of the model's own ever is.
    `top_logprobs` None asks for no log-probabilities, 0 for those of the drawn tokens only. `n` answers are drawn from
    one prefill. A thought is closed after `thinking_budget_tokens`.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: StopConditions = field(default_factory=StopConditions)
    max_tokens: int | None = None
    deadline_s: float | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    top_logprobs: int | None = None
    n: int = 1
    thinking_budget_tokens: int | None = None
    grammar: Grammar | None = None
    kv: KVQuantisation | None = None

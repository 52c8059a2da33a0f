"""The doors between the rooms: what each room needs of the others, as protocols and the small records that cross them.

Nothing here knows MLX, HTTP or SQL. The engine implements `ModelRunner` and `ModelLoader`, the conversation room is
given a `Tokenizer` and a `ChatTemplate`, and the scheduler drives runners that it was handed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inference.errors import InferenceError
from inference.events import Explained, FinishReason, Looked, TokenLogprob
from inference.params import CacheScope, Grammar, KVQuantisation, SamplingParams
from inference.prefix_store import Auditing, PrefixStore
from inference.tokens import Prompt, TokenIds


class Clock(Protocol):
    """Monotonic seconds. Deadlines use nothing else, so a clock step cannot end a request."""

    def __call__(self) -> float: ...


# --- text -------------------------------------------------------------------------------------------------------


class Detokenizer(Protocol):
    """Turns the ids of one answer into text, piece by piece; never a lone surrogate or half a character."""

    def push(self, token: int) -> str:
        """The text that became complete with this token; "" while a character is still open."""

    def finish(self) -> str:
        """What was still held back."""


class Tokenizer(Protocol):
    """One model's text <-> ids. Thread-safe and picklable."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end a turn (tokenizer and generation config together)."""

    def encode_template(self, text: str) -> TokenIds:
        """Ids of text the chat template wrote: structural markers become their ids."""

    def encode_field(self, text: str) -> TokenIds:
        """Ids of text a client wrote: no structural id (flagged special or not) can come out, and no text is lost."""

    def encode_raw(self, text: str) -> TokenIds:
        """Ids of a raw completion prompt: BOS if the model wants one, then the text as `encode_field`."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, those flagged special left out."""

    def token_bytes(self, token: int) -> bytes:
        """What one token stands for, special ones by their name; it need not be whole characters."""

    def detokenizer(self, shown: frozenset[int] = frozenset()) -> Detokenizer:
        """For one answer. Special ids are silent, except those in `shown`."""


class ChatTemplate(Protocol):
    """One model's chat template. Raises `TemplateFailed`."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        arguments: Mapping[str, Any],
    ) -> str: ...


# --- models -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model on this machine: `id` is the name clients use, `path` its directory."""

    id: str
    path: Path


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What admission must know of a loaded model. Bytes are device memory.

    One row of n tokens needs `kv_fixed_bytes` + n x `kv_bytes_per_token`; prefill needs `workspace_bytes` beside it.
    `kv_group_sizes` are those its keys and values can be quantised in; none: they cannot.
    """

    context_tokens: int
    vocab_size: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_fixed_bytes: int = 0
    workspace_bytes: int = 0
    parameters: int = 0
    architecture: str = ""
    kv_group_sizes: tuple[int, ...] = ()

    def row_bytes(self, tokens: int) -> int:
        return self.kv_fixed_bytes + tokens * self.kv_bytes_per_token


class TokenMatcher(Protocol):
    """One answer on its way through a grammar. Used by one thread."""

    def advance(self, token: int) -> bool:
        """Takes a drawn token; False when the grammar does not allow it, after which nothing is allowed."""

    def allowed(self) -> bytes:
        """Which tokens may come next: one bit for each id, least significant first, padded to 32-bit words.

        End-of-turn ids are allowed where the text may end, and nothing else where it must.
        """

    @property
    def stopped(self) -> bool:
        """The text is complete and nothing may follow."""


class CompiledGrammar(Protocol):
    """A grammar made ready for one model's vocabulary. Immutable; crosses threads."""

    def matcher(self) -> TokenMatcher:
        """A fresh one, at the beginning of the text."""


class GrammarCompiler(Protocol):
    """Makes grammars ready, within caps of time, size and states. Thread-safe; never on the worker thread."""

    def compile(self, model: ModelRef, grammar: Grammar) -> CompiledGrammar:
        """Raises `InvalidParameter` for a grammar that is wrong or exceeds a cap. There is no unconstrained way out."""

    def close(self) -> None:
        """Ends what it started; grammars that are compiled stay usable."""


@dataclass(frozen=True, slots=True)
class ThoughtSpan:
    """Where a thought stands in the tokens of an answer, for what counts or waits for it.

    `open`: the prompt ends inside of a thought. After `budget_tokens` of one, `closing` is written by force (ids that
    end with the closer). `opener` and `closer` are ids; a model may write a marker as several.
    """

    opener: TokenIds
    closer: TokenIds
    open: bool = False
    budget_tokens: int | None = None
    closing: TokenIds = ()


@dataclass(frozen=True, slots=True)
class Guide:
    """What steers a row's draws beside sampling: a limit on thoughts and, behind them, a grammar.

    Without `thought` the grammar holds from the first token. With one that is not `open` the answer may begin with a
    thought or with the text of the grammar.
    """

    grammar: CompiledGrammar | None = None
    thought: ThoughtSpan | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One row of work for a runner: everything resolved, nothing optional left to decide.

    `stop_ids` holds the model's end-of-turn ids and the request's own (empty: only `max_tokens` ends the row); none of
    them is drawn before `min_tokens`, and none of `banned_ids` ever. `fork_of` names a job started just before with
    the same prompt: its prefill is shared. Without `cache` nothing is looked up or kept.
    """

    id: str
    prompt: Prompt
    sampling: SamplingParams
    max_tokens: int
    stop_ids: frozenset[int] = field(default_factory=frozenset)
    min_tokens: int = 0
    banned_ids: frozenset[int] = field(default_factory=frozenset)
    top_logprobs: int | None = None
    guide: Guide | None = None
    kv: KVQuantisation | None = None
    fork_of: str = ""
    cache: CacheScope | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A job has left any wait for blocks that were under way and begins behind what `looked` found."""

    job_id: str
    looked: Looked


@dataclass(frozen=True, slots=True)
class Prefilled:
    """`done_tokens` of `total_tokens` prompt tokens of a job are computed (`computed_tokens` of them in this step)."""

    job_id: str
    done_tokens: int
    total_tokens: int
    computed_tokens: int


@dataclass(frozen=True, slots=True)
class Sampled:
    """Tokens a job drew in this step, in order. `finish` set: the row is over and already freed.

    A token that ended the turn (in `stop_ids`) is not among `tokens`. `logprobs`, where asked for, has one entry for
    each of `tokens`.
    """

    job_id: str
    tokens: TokenIds
    finish: FinishReason | None = None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class RowFailed:
    """This job cannot go on; its row is freed, the others are intact."""

    job_id: str
    error: InferenceError


StepOutput = Started | Prefilled | Sampled | RowFailed


class ModelRunner(Protocol):
    """One loaded model. Used by the worker thread only; every call but `step` returns at once."""

    @property
    def limits(self) -> ModelLimits: ...

    def lookup(self, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None = None) -> Looked:
        """What a job of this prompt would begin with now. Changes nothing."""

    def explain(self, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None = None) -> Explained:
        """As `lookup`, and where the prompt leaves what is stored."""

    def make_room(
        self, nbytes: int, by: str, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None
    ) -> None:
        """Takes about `nbytes` back from the store for request `by`, but nothing that its prompt would begin with."""

    def start(self, job: Job) -> None:
        """Takes a job; its prefill begins at the next step, or when another has computed what it needs."""

    def cancel(self, job_id: str, *, keep: bool = True) -> None:
        """Frees a job's row; unless `keep`, nothing that it computed is stored. Unknown ids are ignored."""

    def step(self) -> Sequence[StepOutput]:
        """At most one prefill chunk, then one decode step of each lane. Raises `EngineFatal` when state is unsafe."""

    @property
    def active_jobs(self) -> int: ...

    @property
    def kv_bytes(self) -> int:
        """Device memory the rows hold now, padding of batches included."""

    @property
    def auditor(self) -> Auditing | None:
        """None: nothing that is stored is ever computed again to be compared."""

    def close(self) -> None:
        """Frees weights and KV. The runner is not used again."""


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Bytes, read from the device. `limit_bytes` is what this process may use of it."""

    active_bytes: int
    cache_bytes: int
    peak_bytes: int
    limit_bytes: int


class ModelLoader(Protocol):
    """Loads models on the worker thread and reads the device's memory there.

    `store` outlives the models; None: nothing is kept.
    """

    @property
    def store(self) -> PrefixStore | None: ...

    def load(self, model: ModelRef) -> ModelRunner:
        """Raises `ModelError`, or `MemoryPressure` when only other models are in the way. Then nothing stays."""

    def memory(self) -> DeviceMemory: ...

    def release_unused(self) -> None:
        """Gives freed buffers back to the system."""

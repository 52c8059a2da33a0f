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
from inference.events import FinishReason
from inference.params import SamplingParams
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
    """

    context_tokens: int
    vocab_size: int
    weights_bytes: int
    kv_bytes_per_token: int
    kv_fixed_bytes: int = 0
    workspace_bytes: int = 0
    parameters: int = 0
    architecture: str = ""

    def row_bytes(self, tokens: int) -> int:
        return self.kv_fixed_bytes + tokens * self.kv_bytes_per_token


@dataclass(frozen=True, slots=True)
class Job:
    """One row of work for a runner: everything resolved, nothing optional left to decide.

    `stop_ids` holds the model's end-of-turn ids and the request's own (empty: only `max_tokens` ends the row).
    """

    id: str
    prompt: Prompt
    sampling: SamplingParams
    max_tokens: int
    stop_ids: frozenset[int] = field(default_factory=frozenset)


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

    A token that ended the turn (in `stop_ids`) is not among `tokens`.
    """

    job_id: str
    tokens: TokenIds
    finish: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class RowFailed:
    """This job cannot go on; its row is freed, the others are intact."""

    job_id: str
    error: InferenceError


StepOutput = Prefilled | Sampled | RowFailed


class ModelRunner(Protocol):
    """One loaded model. Used by the worker thread only; every call but `step` returns at once."""

    @property
    def limits(self) -> ModelLimits: ...

    def start(self, job: Job) -> None:
        """Takes a job; its prefill begins at the next step."""

    def cancel(self, job_id: str) -> None:
        """Frees a job's row. Unknown ids are ignored: a finished job may be cancelled late."""

    def step(self) -> Sequence[StepOutput]:
        """At most one prefill chunk, then one decode step of each lane. Raises `EngineFatal` when state is unsafe."""

    @property
    def active_jobs(self) -> int: ...

    @property
    def kv_bytes(self) -> int:
        """Device memory the rows hold now, padding of batches included."""

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
    """Loads models on the worker thread and reads the device's memory there."""

    def load(self, model: ModelRef) -> ModelRunner:
        """Raises `ModelError`, or `MemoryPressure` when only other models are in the way. Then nothing stays."""

    def memory(self) -> DeviceMemory: ...

    def release_unused(self) -> None:
        """Gives freed buffers back to the system."""

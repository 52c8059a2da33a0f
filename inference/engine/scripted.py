"""A runner without a model: paced, deterministic, and able to fail in every way. For load, hang and fault tests only.

It keeps the contract of `ModelRunner` (one prefill chunk, then one token of every decoding row, a step) and imports no
MLX. A row's tokens depend on its prompt, seed and position alone, so any mixing of rows shows.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from zlib import crc32

from inference.errors import EngineFatal, GenerationFailed, InvalidModel
from inference.events import Explained, FinishReason, Looked, TokenLogprob
from inference.params import CacheScope, KVQuantisation
from inference.ports import Clock, DeviceMemory, Job, ModelLimits, ModelRef, Prefilled, RowFailed, Sampled, StepOutput
from inference.prefix_store import Auditing, PrefixStore
from inference.tokens import Prompt

EOS = 256
"""The id that ends a turn; 0 to 255 are bytes."""


class Fault(Enum):
    """What goes wrong. HANG waits for `Script.release` as a native call would, with the GIL released."""

    RAISE = auto()
    FATAL = auto()
    ROW = auto()
    HANG = auto()
    EXIT = auto()
    ABORT = auto()
    SILENT = auto()
    INVALID_MODEL = auto()


def letters(job: Job, position: int) -> int:
    """A lower-case letter or a space, drawn from prompt, seed and position."""
    key = repr((job.prompt.ids, job.sampling.seed, position)).encode()
    return b"abcdefghijklmnopqrstuvwxyz "[crc32(key) % 27]


def saying(text: str) -> Callable[[Job, int], int]:
    """A reply that is this text and then the end of the turn."""
    ids = [*text.encode(), EOS]
    return lambda _job, position: ids[min(position, len(ids) - 1)]


def scored(token: int, count: int) -> TokenLogprob:
    """Log-probabilities as a model would tell them, made up from the id; the token itself is the most likely one."""
    return TokenLogprob(token, -0.5, tuple(((token + at) % EOS, -0.5 - at) for at in range(count)))


@dataclass(slots=True)
class Script:
    """How a scripted model behaves. Faults are named by the number of the step, load or start they happen at (from 0).

    Times are seconds of `sleep`. `growth_bytes` is added to the device's memory by every step. `steps`, `loads` and
    `started` tell a test what happened.
    """

    load_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    chunk_tokens: int = 256
    reply: Callable[[Job, int], int] = letters
    limits: ModelLimits = field(
        default_factory=lambda: ModelLimits(
            context_tokens=65_536, vocab_size=EOS + 1, weights_bytes=1_000_000, kv_bytes_per_token=1_000
        )
    )
    growth_bytes: int = 0
    step_faults: Mapping[int, Fault] = field(default_factory=dict)
    load_faults: Mapping[int, Fault] = field(default_factory=dict)
    start_faults: Mapping[int, Fault] = field(default_factory=dict)
    sleep: Callable[[float], None] = time.sleep
    release: threading.Event = field(default_factory=threading.Event)
    auditor: Auditing | None = None
    steps: int = 0
    loads: int = 0
    starts: int = 0
    open_runners: int = 0
    grown_bytes: int = 0
    started: list[str] = field(default_factory=list)

    def pause(self, pause_s: float) -> None:
        if pause_s > 0:
            self.sleep(pause_s)

    def suffer(self, fault: Fault | None) -> None:
        """Goes wrong in a way that is not a row's own."""
        match fault:
            case Fault.RAISE:
                raise RuntimeError("scripted failure")
            case Fault.FATAL:
                raise EngineFatal("scripted: the state is unsafe")
            case Fault.HANG:
                self.release.wait()
            case Fault.EXIT:
                raise SystemExit
            case Fault.ABORT:
                os.abort()
            case Fault.INVALID_MODEL:
                raise InvalidModel("scripted: a shard is missing")


@dataclass(slots=True)
class _Row:
    job: Job
    done_tokens: int = 0
    position: int = 0


class ScriptedRunner:
    """A `ModelRunner` that plays a `Script`."""

    def __init__(self, script: Script, store: PrefixStore | None = None) -> None:
        self._script = script
        self._store = store
        self._rows: dict[str, _Row] = {}
        self._closed = False
        script.open_runners += 1

    @property
    def limits(self) -> ModelLimits:
        return self._script.limits

    @property
    def active_jobs(self) -> int:
        return len(self._rows)

    @property
    def auditor(self) -> Auditing | None:
        return self._script.auditor

    @property
    def kv_bytes(self) -> int:
        return sum(self.limits.row_bytes(row.done_tokens + row.position) for row in self._rows.values())

    def start(self, job: Job) -> None:
        script = self._script
        if self._closed or job.id in self._rows:
            raise ValueError("not a new job of an open runner")
        script.starts += 1
        script.suffer(script.start_faults.get(script.starts - 1))
        script.started.append(job.id)
        self._rows[job.id] = _Row(job)

    def lookup(self, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None = None) -> Looked:
        return Looked()

    def explain(self, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None = None) -> Explained:
        return Explained()

    def make_room(
        self, nbytes: int, by: str, prompt: Prompt, cache: CacheScope | None, kv: KVQuantisation | None
    ) -> None:
        if self._store is not None:
            self._store.free(nbytes, by)

    def cancel(self, job_id: str, *, keep: bool = True) -> None:
        self._rows.pop(job_id, None)

    def step(self) -> Sequence[StepOutput]:
        script = self._script
        script.steps += 1
        script.grown_bytes += script.growth_bytes
        fault = script.step_faults.get(script.steps - 1)
        script.suffer(fault)
        if fault is Fault.SILENT:
            return ()
        failed = self._fail_first() if fault is Fault.ROW else []
        return [*failed, *self._prefill(), *self._decode()]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._script.open_runners -= 1
        self._rows.clear()

    def _fail_first(self) -> list[StepOutput]:
        job_id = next(iter(self._rows), None)
        if job_id is None:
            return []
        del self._rows[job_id]
        return [RowFailed(job_id, GenerationFailed("scripted: this row failed"))]

    def _prefill(self) -> list[StepOutput]:
        row = next((row for row in self._rows.values() if row.done_tokens < len(row.job.prompt)), None)
        if row is None:
            return []
        self._script.pause(self._script.prefill_s)
        total = len(row.job.prompt)
        computed = min(self._script.chunk_tokens, total - row.done_tokens)
        row.done_tokens += computed
        for other in self._rows.values():
            if other.job.fork_of == row.job.id:
                other.done_tokens = row.done_tokens
        return [Prefilled(row.job.id, row.done_tokens, total, computed)]

    def _decode(self) -> list[StepOutput]:
        rows = [row for row in self._rows.values() if row.done_tokens >= len(row.job.prompt)]
        if rows:
            self._script.pause(self._script.decode_s)
        return [self._draw(row) for row in rows]

    def _draw(self, row: _Row) -> Sampled:
        job = row.job
        token = self._script.reply(job, row.position)
        row.position += 1
        if token in job.stop_ids:
            del self._rows[job.id]
            return Sampled(job.id, (), FinishReason.STOP)
        logprobs = () if job.top_logprobs is None else (scored(token, job.top_logprobs),)
        if row.position >= job.max_tokens:
            del self._rows[job.id]
            return Sampled(job.id, (token,), FinishReason.LENGTH, logprobs)
        return Sampled(job.id, (token,), None, logprobs)


class ScriptedLoader:
    """A `ModelLoader` over scripts by model id (`script` for all others). What `store` holds is device memory too."""

    def __init__(
        self,
        script: Script | None = None,
        scripts: Mapping[str, Script] | None = None,
        *,
        limit_bytes: int = 0,
        clock: Clock = time.monotonic,
        store: PrefixStore | None = None,
    ) -> None:
        self.store = store
        self._script = script or Script()
        self._scripts = dict(scripts or {})
        self._clock = clock
        self.limit_bytes = limit_bytes
        self.runners: list[ScriptedRunner] = []
        self.loaded: Counter[str] = Counter()
        self.loaded_at_s: list[tuple[str, float]] = []
        self.released = 0

    def load(self, model: ModelRef) -> ScriptedRunner:
        script = self._scripts.get(model.id, self._script)
        script.loads += 1
        script.pause(script.load_s)
        script.suffer(script.load_faults.get(script.loads - 1))
        runner = ScriptedRunner(script, self.store)
        self.runners.append(runner)
        self.loaded[model.id] += 1
        self.loaded_at_s.append((model.id, self._clock()))
        return runner

    def memory(self) -> DeviceMemory:
        open_runners = [runner for runner in self.runners if not runner._closed]
        active = sum(runner.limits.weights_bytes + runner.kv_bytes for runner in open_runners)
        active += sum({id(script): script.grown_bytes for script in (self._script, *self._scripts.values())}.values())
        active += 0 if self.store is None else self.store.held_bytes
        return DeviceMemory(active, 0, active, self.limit_bytes)

    def release_unused(self) -> None:
        """Forgets closed runners, as a device gives freed buffers back."""
        self.released += 1
        self.runners = [runner for runner in self.runners if not runner._closed]

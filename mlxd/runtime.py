"""The composition root: which models are served, how a request becomes a generation, and what the process is doing.

    open(): resolve the model -> load its text side once -> prepare the prompt off the loop -> hand it to the scheduler

Everything above (API, dashboard, daemon) talks to this object; everything below is handed to it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Semaphore

from inference.conversation.preparer import Preparer
from inference.conversation.text_model import TextModel
from inference.conversation.volatile_policy import BIND, VolatilePolicy
from inference.errors import BusyError, ModelLoading, QueueFull, RequestError, UnsupportedParameter
from inference.messages import Conversation
from inference.params import GenerationParams, Grammar
from inference.ports import CompiledGrammar, GrammarCompiler, ModelRef, Tokenizer
from inference.scheduler import PoolRules, Request, Scheduler, SchedulerView
from inference.streaming.dialects.choice import AUTO, spoken
from inference.streaming.splitter import ReasoningMode
from inference.tokens import TokenIds
from mlxd.answering import guide_of, limit_of, shown_ids, thinking_of
from mlxd.config import Config
from mlxd.conversing import Asking, Conversing
from mlxd.echoes import Echoes
from mlxd.ledger.ledger import Ledger, LedgerView
from mlxd.ledger.recorded import Recorded
from mlxd.ledger.witness import Witness
from mlxd.live_settings import LiveSettings
from mlxd.malformed import MalformedCalls
from mlxd.prewarm import Prewarmed
from mlxd.seals import Seals
from mlxd.served import ServedModel as ServedModel  # the API names it too
from mlxd.served import default_of, resolved
from mlxd.served import served_models as served_models

MAX_COMPILING = 16
"""Grammars that are compiled or wait for it. They are tried one after the other; what is known already passes by."""


@dataclass(frozen=True, slots=True)
class RuntimeView:
    """What the process is doing at this moment; immutable, safe to show to an admin. `witness` is what it counted,
    `require_key` whether clients have to bring a key of this server."""

    version: str
    uptime_s: float
    models: tuple[ServedModel, ...]
    scheduler: SchedulerView
    ledger: LedgerView
    witness: Mapping[str, int] = field(default_factory=dict)
    require_key: bool = False


@dataclass(slots=True)
class Runtime:
    """One per process. `load_text` reads a model's tokenizer and template from its directory.

    `reasoning`: how thoughts are told from answers; `auto` looks where each prompt leaves the model. `tool_call_format`
    names a dialect of tool calls; `auto` takes what the model's template shows. `make_grammars`
    is called for the first grammar, with what gives the tokenizer of a model; without it no format is offered.
    """

    models: tuple[ServedModel, ...]
    scheduler: Scheduler
    preparer: Preparer
    load_text: Callable[[Path], TextModel]
    strict_models: bool = False
    default_model: str = ""
    max_context_tokens: int = 0
    reasoning: ReasoningMode = ReasoningMode.AUTO
    tool_call_format: str = AUTO
    malformed: MalformedCalls = field(default_factory=MalformedCalls)
    echoes: Echoes = field(default_factory=Echoes)
    make_grammars: Callable[[Callable[[ModelRef], Tokenizer]], GrammarCompiler] | None = None
    ledger: Ledger = field(default_factory=Ledger)
    witness: Witness = field(default_factory=Witness)
    seals: Seals = field(default_factory=Seals)
    settings: LiveSettings = field(default_factory=lambda: LiveSettings.alone(Config(state_dir=Path())))
    prewarmed: list[Prewarmed] = field(default_factory=list)
    require_key: bool = False
    version: str = ""
    started_s: float = field(default_factory=time.monotonic)
    _texts: dict[str, asyncio.Future[TextModel]] = field(default_factory=dict)
    _grammars: GrammarCompiler | None = None
    _compiling: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(MAX_COMPILING, "grammar"))
    _compilers: Semaphore = field(default_factory=lambda: Semaphore(MAX_COMPILING))

    def resolve(self, name: str | None) -> ServedModel:
        """The model a request names. Raises `ModelNotFound`; touches no file."""
        return resolved(self.models, name, self._resident, default=self.default_model, strict=self.strict_models)

    def default(self) -> ServedModel:
        """Who answers when a request names nobody. There is at least one model."""
        return default_of(self.models, self._resident, self.default_model)

    @property
    def _resident(self) -> set[str]:
        return {model.id for model in self.scheduler.snapshot().models if model.limits is not None}

    def serve(self, model: ServedModel) -> None:
        """Adds a model to those that may be named, or puts it in the place of the one with its id. On the loop."""
        others = [known for known in self.models if known.id != model.id]
        known = next((place for place, one in enumerate(self.models) if one.id == model.id), len(others))
        self.models = (*others[:known], model, *others[known:])

    def pool_rules(self) -> PoolRules:
        """Who may stay in memory, by the settings of now."""
        return self.settings.rules(self.models)

    def apply_rules(self) -> None:
        """To be called when the settings or the models have changed."""
        self.scheduler.rule(self.pool_rules())

    def read_anew(self, model_id: str) -> None:
        """Has a model's tokenizer and template read again when they are needed next: its files may have changed."""
        self._texts.pop(model_id, None)
        for model in self.models:
            if model.id == model_id:
                self.seals.forget(model.path)

    async def text(self, model: ServedModel) -> TextModel:
        """The tokenizer and template of a model, read once, off the loop. Raises `ModelError`."""
        future = self._texts.get(model.id)
        if future is None:
            future = asyncio.ensure_future(asyncio.to_thread(self._read_text, model.path))
            self._texts[model.id] = future
        try:
            return await asyncio.shield(future)
        except Exception:
            self._texts.pop(model.id, None)  # a repaired model may be tried again
            self.seals.forget(model.path)
            raise

    def _read_text(self, path: Path) -> TextModel:
        """A model's text side with the context that requests get: the configured limit where that is lower."""
        self.seals.check(path)
        text = self.load_text(path)
        return replace(text, context_tokens=min(text.context_tokens, self.max_context_tokens or text.context_tokens))

    async def open(
        self,
        *,
        model: str | None,
        conversation: Conversation | None = None,
        raw_prompt: str | TokenIds = "",
        params: GenerationParams,
        client: str,
        request_id: str,
        body_bytes: int = 0,
        session: str = "",
        conv: str = "",
        salt: bytes = b"",
        volatile: VolatilePolicy = BIND,
        no_calls: Grammar | None = None,
    ) -> Recorded:
        """Prepares a prompt and hands it to the scheduler; what is asked is told in `Asking`. `no_calls` is what the
        answer must match if tools are kept in its prompt; without it none are.

        Raises any `RequestError`, `BusyError` or `ModelError`.
        """
        served = self.resolve(model)
        text = await self.text(served)
        grammar = await self._compiled(served, params.grammar)
        ban = grammar or await self._offered(served, no_calls)
        asking = Asking(
            params=params,
            conversation=conversation,
            raw_prompt=raw_prompt,
            client=client,
            body_bytes=body_bytes,
            session=session,
            conv=conv,
            salt=salt,
            volatile=volatile,
            keep_tools=no_calls is not None and ban is not None,
        )
        understood = await self.conversing.understand(served.ref, text, asking)
        prompt, grammar = understood.prompt, ban if understood.kept_tools else grammar
        tools = () if conversation is None else conversation.tools
        dialects = () if conversation is None else spoken(text.dialects, self.tool_call_format)
        thinking, thought = None, None
        if conversation is not None:
            thinking = thinking_of(text, prompt, self.reasoning)
            thought = limit_of(text, prompt, self.reasoning, params.thinking_budget_tokens, calls=bool(tools))
        listening = self.echoes.listening(understood.found, text, prompt, thinking, understood.known.session)
        generation = self.scheduler.submit(
            Request(
                id=request_id,
                model=served.ref,
                tokenizer=text.tokenizer,
                prompt=prompt,
                params=params,
                context_tokens=text.context_tokens,
                client=client,
                thinking=thinking,
                tools=tools,
                dialects=dialects,
                shown=shown_ids(text.tokenizer, dialects, calls=bool(tools)),
                report=partial(self.malformed.note, request_id, served.id),
                guide=guide_of(grammar, thought, split=thinking is not None and not text.traits.channels),
                cache=understood.scope,
                note=None if listening is None else listening.note,
            )
        )
        return Recorded(generation, understood.known, self.ledger, listening, generation.kept)

    @property
    def conversing(self) -> Conversing:
        """The way from a request to its prompt, for requests and for questions about them."""
        return Conversing(self.echoes, self.ledger, self.preparer, self.witness, self.reasoning)

    async def _offered(self, served: ServedModel, grammar: Grammar | None) -> CompiledGrammar | None:
        """A grammar that nobody asked for: None where it cannot be had, which is no reason to refuse a request."""
        try:
            return await self._compiled(served, grammar)
        except (RequestError, BusyError):
            return None

    async def _compiled(self, served: ServedModel, grammar: Grammar | None) -> CompiledGrammar | None:
        """A grammar made ready, off the loop and before the request waits for anything else."""
        if grammar is None:
            return None
        if self._grammars is None:
            if self.make_grammars is None:
                raise UnsupportedParameter(f"{grammar.param} is not offered by this server.", param=grammar.param)
            self._grammars = self.make_grammars(self.tokenizer_of)
        if not self._compilers.acquire(blocking=False):
            raise QueueFull("Too many grammars wait to be compiled.", retry_after_s=2)
        work = self._compiling.submit(self._grammars.compile, served.ref, grammar)
        work.add_done_callback(lambda _: self._compilers.release())  # also where the client went away meanwhile
        return await asyncio.wrap_future(work)

    def tokenizer_of(self, model: ModelRef) -> Tokenizer:
        """The tokenizer of a model that a request is being opened for. From any thread."""
        known = self._texts.get(model.id)  # gone where the model is being loaded anew
        return known.result().tokenizer if known is not None and known.done() else self._read_text(model.path).tokenizer

    def parameters(self, model_id: str) -> int:
        """How many a loaded model has; 0 for any other."""
        view = self.scheduler.snapshot().model(model_id)
        return view.limits.parameters if view is not None and view.limits is not None else 0

    def live(self) -> bool:
        """False within two seconds of the worker's death."""
        return self.scheduler.alive

    def readiness(self) -> tuple[bool, str]:
        """Whether requests are answered now, and if not, a word that says why."""
        return self.scheduler.readiness()

    def snapshot(self) -> RuntimeView:
        return RuntimeView(
            version=self.version,
            uptime_s=time.monotonic() - self.started_s,
            models=self.models,
            scheduler=self.scheduler.snapshot(),
            ledger=self.ledger.view(),
            witness=self.witness.counts,
            require_key=self.require_key,
        )

    def close(self) -> bool:
        """Ends all there is, and keeps what must outlive it. False: the worker did not end in time."""
        if self._grammars is not None:
            self._grammars.close()
        self._compiling.shutdown(wait=False, cancel_futures=True)
        self.preparer.close()
        self.witness.close()
        ended = self.scheduler.stop()
        self.ledger.close()
        return ended


_current: Runtime | None = None


def install(runtime: Runtime | None) -> None:
    """Makes a runtime the one this process serves (None takes it away)."""
    global _current  # noqa: PLW0603  one process, one GPU, one runtime; Django's views have no other way to it
    _current = runtime


def current() -> Runtime:
    """The process's runtime. Raises `ModelLoading` while there is none yet."""
    if _current is None:
        raise ModelLoading("mlxd is starting.")
    return _current

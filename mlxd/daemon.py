"""`mlxd serve`: puts the process together, serves, and ends it in order.

The port is bound before anything is loaded, so a second daemon or a taken port is told at once. SIGTERM and SIGINT
drain; a second one ends the process with 143. SIGHUP opens the log files anew, SIGQUIT writes every thread's stack.
Exit code 70 means that the engine or the event loop was past saving: a service manager starts mlxd again.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TextIO, cast

import structlog
from django.conf import settings
from django.urls import resolve

from inference.conversation.preparer import Preparer
from inference.engine.settings import GRID_TOKENS, CacheSettings, DiskSettings, EngineSettings
from inference.engine.text import load_text
from inference.errors import InferenceError
from inference.ports import GrammarCompiler, ModelLimits, ModelLoader, ModelRef, Tokenizer
from inference.scheduler import Scheduler, SchedulerSettings
from inference.streaming.dialects.choice import AUTO, NAMES
from inference.streaming.splitter import ReasoningMode
from mlxd import __version__, instance, log, runtime
from mlxd.api import policy
from mlxd.banner import start_banner
from mlxd.catalog import named_models
from mlxd.config import Config
from mlxd.ledger.witness import Witness
from mlxd.paths import StateDir, admin_token, secret_key
from mlxd.recollection import recollected
from mlxd.runtime import Runtime, served_models
from mlxd.start_errors import InvalidSetting, PortTaken
from mlxd.transport import BindFailed, GateConfig, PortInUse, TransportLimits
from mlxd.transport.server import Application, TransportServer  # installs the asyncio reactor
from mlxd.vitals import Vitals

EXIT_UNSAFE = 70
EXIT_ABORTED = 143
UNMETERED = TransportLimits().connections_unmetered
LAST_WORDS_S = 1.0
"""Time for the error events of a dying engine to reach their clients."""

events = structlog.get_logger(__name__)


def run(config: Config, *, loader_factory: Callable[[], ModelLoader] | None = None) -> int:
    """Serves until a signal; the exit code. The caller holds the state directory's lock. Raises `StartError`."""
    state = StateDir(config.state_dir)
    os.environ["MLXD_STATE_DIR"] = str(config.state_dir)  # where Django's settings, and every child, look
    secret_key(state)
    log.configure(level=config.log_level, form=config.log_format, debug=config.debug, directory=state.logs)
    log.log_uncaught()
    with (state.logs / "stacks.txt").open("a") as stacks:
        return Daemon(config, state, loader_factory or mlx_loader(config), stacks).serve()


def mlx_loader(config: Config) -> Callable[[], ModelLoader]:
    """Makes the real engine's loader; called on the worker thread, where MLX is imported."""
    steps = -(-config.prefill_step_tokens // GRID_TOKENS)
    settings = EngineSettings(
        prefill_step_tokens=steps * GRID_TOKENS,
        max_batch=config.max_batch,
        memory_limit_bytes=config.memory_limit_bytes or None,
        cache=cache_settings(config),
        disk=disk_settings(config),
    )

    def make() -> ModelLoader:
        from inference.engine.loader import MlxLoader

        return MlxLoader(settings)

    return make


def cache_settings(config: Config) -> CacheSettings:
    return CacheSettings(
        memory_bytes=config.cache_memory_bytes,
        snapshot_memory_bytes=config.cache_snapshot_memory_bytes,
        side_memory_bytes=config.cache_side_memory_bytes,
        ttl_s=config.cache_ttl_s,
        idle_s=config.cache_idle_s,
        max_sessions=config.cache_max_sessions,
        max_entries_per_session=config.cache_max_entries_per_session,
        max_conversation_tokens=config.cache_max_conversation_tokens,
        min_reuse_tokens=config.cache_min_reuse_tokens,
        bitwise=config.reuse == "bitwise",
    )


def disk_settings(config: Config) -> DiskSettings | None:
    if config.ssd_cache_bytes == 0:
        return None
    return DiskSettings(StateDir(config.state_dir).prefixes, config.ssd_cache_bytes, config.ssd_cache_daily_bytes)


def make_grammars(tokenizer_of: Callable[[ModelRef], Tokenizer]) -> GrammarCompiler:
    """The compiler of grammars; its library is imported when the first is asked for (0.1 s)."""
    from inference.engine.grammar import LlgCompiler

    return LlgCompiler(tokenizer_of)


class Daemon:
    """One serving process."""

    def __init__(
        self, config: Config, state: StateDir, loader_factory: Callable[[], ModelLoader], stacks: TextIO
    ) -> None:
        self._config = config
        self._state = state
        self._stacks = stacks
        self._server = make_server(config, self.begin)
        self._runtime = self._make_runtime(loader_factory)
        self._vitals: Vitals | None = None
        self._ending = False
        self._failure: Exception | None = None

    def _make_runtime(self, loader_factory: Callable[[], ModelLoader]) -> Runtime:
        config = self._config
        scheduler = Scheduler(
            loader_factory,
            scheduler_settings(config),
            on_death=lambda _cause: self._die("worker_died"),
            on_hang=lambda: self._die("engine_hung"),
            dump_fd=self._stacks.fileno(),
        )
        return Runtime(
            models=served_models(named(config)),
            scheduler=scheduler,
            preparer=Preparer(),
            load_text=load_text,
            strict_models=config.strict_models,
            max_context_tokens=config.max_context_tokens,
            reasoning=ReasoningMode(config.reasoning),
            tool_call_format=tool_call_format(config),
            make_grammars=make_grammars,
            witness=Witness(config.content_check_every),
            version=__version__,
        )

    def serve(self) -> int:
        """Blocks until the end."""
        policy.install(policy.Policy.of(self._config, admin_token(self._state)))
        self._runtime.ledger, self._runtime.echoes = recollected(self._config, self._state)
        runtime.install(self._runtime)
        faulthandler.register(signal.SIGQUIT, file=self._stacks, all_threads=True)
        try:
            self._runtime.scheduler.start()
            self._server.run()
        finally:
            if self._vitals is not None:
                self._vitals.stop()
            instance.withdraw(self._state)
            ended = self._runtime.close()
            runtime.install(None)
        if self._failure is not None:
            raise self._failure
        if not ended:  # it is deep in the engine: the interpreter would take its threads apart under it, and abort
            events.warning("worker_left_behind")
            logging.shutdown()
            os._exit(0)
        return 0

    # --- on the event loop ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Called once the port answers. A start that fails half-way must not look like a running daemon."""
        try:
            self._begin()
        except Exception as error:
            self._failure = error
            self._server.stop()

    def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.end)
        loop.add_signal_handler(signal.SIGHUP, log.reopen)
        self._vitals = Vitals(loop, self._die, stacks=self._stacks)
        self._vitals.start()
        instance.publish(self._state, self.url)
        print(start_banner(self._config, self.url, [model.id for model in self._runtime.models]), flush=True)  # noqa: T201
        events.info("listening", url=self.url, version=__version__, models=len(self._runtime.models))
        if self._config.models or self._config.demo:  # what merely lies in the cache waits until it is asked for
            self._warm_up(loop)

    @property
    def url(self) -> str:
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        return f"http://{host}:{self._server.port}"

    def _warm_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Brings in the default model, and its tokenizer beside it, before the first request asks for them."""
        default = self._runtime.models[0]
        self._runtime.scheduler.load(default.ref).add_done_callback(self._loaded)
        reading = loop.create_task(self._runtime.text(default))
        reading.add_done_callback(self._text_read)

    def _loaded(self, loading: Future[ModelLimits]) -> None:
        error = loading.exception() if not loading.cancelled() else None
        if error is not None:
            reason = error.message if isinstance(error, InferenceError) else type(error).__name__
            events.error("model_not_loaded", reason=reason)

    def _text_read(self, reading: asyncio.Task[object]) -> None:
        error = reading.exception() if not reading.cancelled() else None
        if error is not None:
            reason = error.message if isinstance(error, InferenceError) else type(error).__name__
            events.error("tokenizer_not_loaded", reason=reason)

    def end(self) -> None:
        """Drains: no new connection, running answers may finish. Called again: ends at once."""
        if self._ending:
            os._exit(EXIT_ABORTED)
        self._ending = True
        events.info("draining", limit_s=self._config.drain_s, in_flight=self._server.in_flight)
        instance.withdraw(self._state)
        self._server.stop_listening()
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        complete = await asyncio.wrap_future(self._runtime.scheduler.drain(self._config.drain_s))
        until_s = asyncio.get_running_loop().time() + LAST_WORDS_S
        while self._server.in_flight and asyncio.get_running_loop().time() < until_s:  # noqa: ASYNC110  once, at the end
            await asyncio.sleep(0.01)
        events.info("stopping", complete=complete)
        self._server.stop()

    # --- from any thread ------------------------------------------------------------------------------------------

    def _die(self, reason: str) -> None:
        """The engine or the loop cannot go on. Clients were told; they get a moment to hear it."""
        if self._ending and reason != "event_loop_blocked":
            return
        events.critical("giving_up", reason=reason, exit_code=EXIT_UNSAFE)
        faulthandler.dump_traceback(file=self._stacks, all_threads=True)
        timer = threading.Timer(LAST_WORDS_S, os._exit, (EXIT_UNSAFE,))
        timer.daemon = True
        timer.start()


def named(config: Config) -> tuple[tuple[str, Path], ...]:
    """The models to serve. Raises `InvalidSetting`."""
    try:
        return named_models(config.models, demo=config.demo)
    except InferenceError as error:
        raise InvalidSetting(error.message, cure="`mlxd models` lists what is on this machine.") from error


def tool_call_format(config: Config) -> str:
    """The dialect of tool calls that was named. Raises `InvalidSetting`, which lists those there are."""
    name = config.tool_call_format
    if name != AUTO and name not in NAMES:
        known = ", ".join((AUTO, *sorted(NAMES)))
        raise InvalidSetting(f"There is no tool call format {name[:64]!r}.", cure=f"It may be one of: {known}.")
    return name


def scheduler_settings(config: Config) -> SchedulerSettings:
    return SchedulerSettings(
        max_batch=config.max_batch,
        max_models=config.resident_models,
        max_queue=config.queue_size,
        max_queue_per_client=config.queue_size_per_key,
        queue_deadline_s=config.queue_timeout_s,
        generation_deadline_s=config.generation_deadline_s or None,
        watchdog_s=config.watchdog_s,
    )


def application(config: Config) -> Application:
    """The ASGI application, with its URLs resolved once: done lazily, that would cost the first request 0.7 s."""
    from mlxd.asgi import application as routed  # sets Django up, which reads the state directory

    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = config.max_body_bytes
    resolve("/v1/models")
    return cast(Application, routed)


def make_server(config: Config, on_ready: Callable[[], None]) -> TransportServer:
    """A server whose port is bound already. Raises `PortTaken` or `InvalidSetting`."""
    server = TransportServer(
        application(config),
        host=config.host,
        port=config.port,
        limits=TransportLimits(
            body_bytes=config.max_body_bytes,
            connections=config.max_connections,
            connections_per_ip=config.max_connections_per_address,
            connections_unmetered=max(UNMETERED, config.max_connections_per_address),
            write_stall_s=config.slow_reader_s,
        ),
        gate=GateConfig(hosts=frozenset(config.allowed_hosts), origins=frozenset(config.allowed_origins)),
        on_ready=on_ready,
    )
    try:
        server.bind()
    except PortInUse as error:
        raise PortTaken(f"Port {error.port} of {error.host} is in use.", cure="Choose another with --port.") from error
    except BindFailed as error:
        raise InvalidSetting(f"mlxd {error}.", cure="Choose another --host or --port.") from error
    return server

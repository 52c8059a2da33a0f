"""`mlxd serve`: puts the process together, serves, and ends it in order.

The port is bound before anything is loaded, so a second daemon or a taken port is told at once. SIGTERM and SIGINT
drain; a second one ends the process with 143. SIGHUP opens the log files anew, SIGQUIT writes every thread's stack.
Exit code 70 means that the engine or the event loop was past saving: a service manager starts mlxd again.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TextIO

import structlog

from inference.conversation.preparer import Preparer
from inference.engine.text_trial import load_text_apart
from inference.errors import InferenceError
from inference.ports import ModelLimits, ModelLoader
from inference.scheduler import Scheduler
from inference.streaming.splitter import ReasoningMode
from mlxd import __version__, instance, log, runtime
from mlxd.api import policy
from mlxd.banner import start_banner
from mlxd.config import Config
from mlxd.config.addresses import reachable
from mlxd.config.people import kept_from_others
from mlxd.keys import access
from mlxd.ledger.witness import Witness
from mlxd.live_settings import LiveSettings
from mlxd.load_deaths import LoadDeaths, NotedLoader, hold_back
from mlxd.log_outlet import say
from mlxd.paths import StateDir, admin_token, secret_key
from mlxd.prewarm import read_chosen
from mlxd.recollection import recollected
from mlxd.runtime import Runtime
from mlxd.served import served_models
from mlxd.unbacked import keep_out_of_backups, tag_as_cache
from mlxd.vitals import Vitals
from mlxd.wiring import (
    guarded_access,
    make_grammars,
    make_server,
    mlx_loader,
    named,
    scheduler_settings,
    tool_call_format,
)

EXIT_UNSAFE = 70
EXIT_ABORTED = 143
LAST_WORDS_S = 1.0
"""Time for the error events of a dying engine to reach their clients."""

events = structlog.get_logger(__name__)


def run(
    config: Config, *, live: LiveSettings | None = None, loader_factory: Callable[[], ModelLoader] | None = None
) -> int:
    """Serves until a signal; the exit code. The caller holds the state directory's lock. Raises `StartError`.

    `live` are the same settings as far as they may change; without them no change outlives the process.
    """
    state = StateDir(config.state_dir)
    os.environ["MLXD_STATE_DIR"] = str(config.state_dir)  # where Django's settings, and every child, look
    secret_key(state)
    keep_out_of_backups(state.root)
    if config.ssd_cache_bytes != 0:
        tag_as_cache(state.prefixes)
    log.configure(level=config.log_level, form=config.log_format, debug=config.debug, directory=state.logs)
    log.log_uncaught()
    with (state.logs / "stacks.txt").open("a") as stacks:
        live = live or LiveSettings.alone(config)
        return Daemon(live, state, loader_factory or mlx_loader(config, live.bitwise_of), stacks).serve()


class Daemon:
    """One serving process."""

    def __init__(
        self, live: LiveSettings, state: StateDir, loader_factory: Callable[[], ModelLoader], stacks: TextIO
    ) -> None:
        self._live = live
        config = self._config = live.config
        self._state = state
        self._stacks = stacks
        self._chosen = read_chosen(config.prewarm)
        self._server = make_server(config, self.begin)
        self._deaths = LoadDeaths(state.loads)
        self._runtime = self._make_runtime(loader_factory)
        self._vitals: Vitals | None = None
        self._ending = False
        self._failure: Exception | None = None

    def _make_runtime(self, loader_factory: Callable[[], ModelLoader]) -> Runtime:
        config = self._config
        scheduler = Scheduler(
            lambda: NotedLoader(loader_factory(), self._deaths, self._runtime.seals),
            scheduler_settings(config),
            on_death=lambda _cause: self._die("worker_died"),
            on_hang=lambda: self._die("engine_hung"),
            dump_fd=self._stacks.fileno(),
            on_audit=lambda result: self._runtime.ledger.audited(result),  # noqa: PLW0108  the ledger comes later
        )
        made = Runtime(
            models=self._live.settled(served_models(named(config))),
            scheduler=scheduler,
            preparer=Preparer(),
            load_text=load_text_apart,
            strict_models=config.strict_models,
            default_model=config.default_model,
            settings=self._live,
            max_context_tokens=config.max_context_tokens,
            reasoning=ReasoningMode(config.reasoning),
            tool_call_format=tool_call_format(config),
            make_grammars=make_grammars,
            witness=Witness(config.content_check_every),
            version=__version__,
        )
        made.apply_rules()
        hold_back(scheduler, (model.ref for model in made.models), self._deaths)
        return made

    def serve(self) -> int:
        """Blocks until the end."""
        token, secret = admin_token(self._state), secret_key(self._state)
        policy.install(policy.Policy.of(self._config, token, secret, people=kept_from_others(self._config)))
        self._runtime.require_key = policy.current().require_key
        self._runtime.ledger, self._runtime.echoes = recollected(self._config, self._state)
        access.install(guarded_access(self._config, self._state))
        self._runtime.ledger.tally = access.current().keyring.tally
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
            self._deaths.note("")  # a load that was ended on purpose killed nobody
            access.current().keyring.close()
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
        served, people = [model.id for model in self._runtime.models], policy.current().people
        missing = self._server.bind().missing
        say(sys.stdout, start_banner(self._config, self.url, served, people, missing))
        events.info("listening", url=self.url, version=__version__, models=len(self._runtime.models))
        for address, reason in missing:  # whoever gets it later receives what is sent there
            events.warning("address_not_available", address=address, reason=reason)
        gc.collect()
        gc.freeze()  # what was imported stays: to look through it for garbage held every stream for 85 ms, now and then
        if self._config.models or self._config.demo:  # what merely lies in the cache waits until it is asked for
            self._warm_up(loop)
        if self._chosen:
            from mlxd.prewarmer import Prewarmer  # its way leads through the API, which needs Django set up

            self._prewarming = loop.create_task(Prewarmer(self._runtime, self._chosen).run())

    @property
    def url(self) -> str:
        return f"http://{reachable(self._config.host)}:{self._server.port}"

    def _warm_up(self, loop: asyncio.AbstractEventLoop) -> None:
        """Brings in the default model, and its tokenizer beside it, before the first request asks for them."""
        default = self._runtime.default()
        if default.id in self._deaths.held_back:
            return
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

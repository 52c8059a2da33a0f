"""From the settings to the parts of a serving process: loader, scheduler, application, server."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from django.conf import settings
from django.urls import resolve

from inference.engine.settings import GRID_TOKENS, DiskSettings, EngineSettings
from inference.errors import InferenceError
from inference.ports import GrammarCompiler, ModelLoader, ModelRef, Tokenizer
from inference.streaming.dialects.choice import AUTO, NAMES
from mlxd.catalog import named_models
from mlxd.config import Config
from mlxd.config.addresses import is_unspecified, reachable, refuse_unguarded
from mlxd.keys.access import Access
from mlxd.keys.key import Scope
from mlxd.live_settings import cache_settings
from mlxd.live_settings import scheduler_settings as scheduler_settings
from mlxd.paths import StateDir
from mlxd.start_errors import InvalidSetting, PortTaken
from mlxd.transport import BindFailed, GateConfig, PortInUse, TransportLimits
from mlxd.transport.server import Application, TransportServer  # installs the asyncio reactor

UNMETERED = TransportLimits().connections_unmetered


def mlx_loader(config: Config, bitwise_of: Callable[[str], bool | None] = lambda _: None) -> Callable[[], ModelLoader]:
    """Makes the real engine's loader; called on the worker thread, where MLX is imported."""
    steps = -(-config.prefill_step_tokens // GRID_TOKENS)
    settings = EngineSettings(
        prefill_step_tokens=steps * GRID_TOKENS,
        max_batch=config.max_batch,
        memory_limit_bytes=config.memory_limit_bytes or None,
        cache=cache_settings(config),
        disk=disk_settings(config),
        bitwise_of=bitwise_of,
    )

    def make() -> ModelLoader:
        from inference.engine.loader import MlxLoader

        return MlxLoader(settings)

    return make


def disk_settings(config: Config) -> DiskSettings | None:
    if config.ssd_cache_bytes == 0:
        return None
    return DiskSettings(StateDir(config.state_dir).prefixes, config.ssd_cache_bytes, config.ssd_cache_daily_bytes)


def make_grammars(tokenizer_of: Callable[[ModelRef], Tokenizer]) -> GrammarCompiler:
    """The compiler of grammars; its library is imported when the first is asked for (0.1 s)."""
    from inference.engine.grammar import LlgCompiler

    return LlgCompiler(tokenizer_of)


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


def application(config: Config) -> Application:
    """The ASGI application, with its URLs resolved once: done lazily, that would cost the first request 0.7 s."""
    from mlxd.asgi import application as routed  # sets Django up, which reads the state directory

    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = config.max_body_bytes
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, *own_names(config)]  # the gate has compared, port and all
    resolve("/v1/models")
    return cast(Application, routed)


def own_names(config: Config) -> frozenset[str]:
    """What a Host header may call us besides the loopback names. Nobody can rebind an address: the one we listen on."""
    bound = frozenset[str]() if is_unspecified(config.host) else frozenset({reachable(config.host)})
    return bound | frozenset(config.allowed_hosts)


def guarded_access(config: Config, state: StateDir) -> Access:
    """Who may come in, from the database. Django is set up by now. Raises `InvalidSetting` where other machines could
    and nobody has a key."""
    from mlxd.keys.opening import open_access

    opened = open_access(state, opened=config.ledger)
    refuse_unguarded(config, has_key=opened.keyring.opens(Scope.INFER))
    return opened


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
        gate=GateConfig(hosts=own_names(config), origins=frozenset(config.allowed_origins)),
        on_ready=on_ready,
    )
    try:
        server.bind()
    except PortInUse as error:
        raise PortTaken(f"Port {error.port} of {error.host} is in use.", cure="Choose another with --port.") from error
    except BindFailed as error:
        raise InvalidSetting(f"mlxd {error}.", cure="Choose another --host or --port.") from error
    return server

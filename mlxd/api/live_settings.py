"""`/api/settings`: every setting with its source, and those that may change while mlxd runs. For the admin only.

A change is refused as a whole or holds as a whole, at once and after a restart. A null takes back what was saved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from ninja import Router

from inference.conversation.volatile_policy import KNOWN, policy_of
from mlxd import runtime
from mlxd.api import policy
from mlxd.api.auth import AdminBearer
from mlxd.api.errors import Conflict, InvalidField
from mlxd.api.models import exactly, limits, shown
from mlxd.api.orders import body_of, read_order
from mlxd.api.reasoning import checked_args
from mlxd.api.schemas.admin import ModelCache
from mlxd.api.strict_json import parse_object
from mlxd.api.wholly import wholly
from mlxd.config import BY_NAME, KNOBS, Config, Knob, is_model_name
from mlxd.live_settings import DISK, LIVE, STORE, LiveSettings, cache_settings, scheduler_settings
from mlxd.model_schema import OwnSettings
from mlxd.model_settings import ModelSettings
from mlxd.runtime import Runtime
from mlxd.served import ServedModel, clash, named
from mlxd.start_errors import InvalidSetting, StartError

router = Router(tags=["settings"])
admin = AdminBearer()
_OF_POLICY: Final = (
    *("sampling", "default_thinking", "preserve_thinking", "strip_thinking", "volatile", "volatile_of"),
    *("keep_tools", "keepalive_s"),
)
PATIENCE_S: Final = 2.0
_ANY_OBJECT: Final = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}


@router.get("/settings", auth=admin, summary="Every setting, its value, and where that comes from")
async def settings(request: ASGIRequest) -> dict[str, Any]:
    live = runtime.current().settings
    return {"settings": [_row(knob, live) for knob in KNOBS]}


@router.post("/settings", auth=admin, summary="Change settings, now and from now on", openapi_extra=_ANY_OBJECT)
async def change(request: ASGIRequest) -> dict[str, Any]:
    changes = parse_object(request.body)
    live = await _change(runtime.current(), changes)
    return {"settings": [_row(BY_NAME[name], live) for name in changes]}


@router.get("/settings/model-cache", auth=admin, summary="How many models may be in memory, and for how long")
async def model_cache(request: ASGIRequest) -> dict[str, Any]:
    return _model_cache(runtime.current())


@router.post(
    "/settings/model-cache",
    auth=admin,
    summary="Change how many models may be in memory, and for how long",
    openapi_extra=body_of(ModelCache),
)
async def change_model_cache(request: ASGIRequest) -> dict[str, Any]:
    wanted = read_order(ModelCache, request)
    names = {"max_models": wanted.max_size, "model_ttl_s": wanted.ttl_s}
    await _change(runtime.current(), {name: value for name, value in names.items() if value is not None})
    return _model_cache(runtime.current())


@router.get("/settings/models/{path:model_id}", auth=admin, summary="What one model is set to")
async def model_settings(request: ASGIRequest, model_id: str) -> dict[str, Any]:
    running = runtime.current()
    return shown(running, exactly(running, model_id))


@router.put(
    "/settings/models/{path:model_id}",
    auth=admin,
    summary="Set one model: what is left out is decided by the settings of all",
    openapi_extra=body_of(OwnSettings),
)
async def set_model(request: ASGIRequest, model_id: str) -> dict[str, Any]:
    """`reuse` holds from the model's next load, all else at once."""
    running = runtime.current()
    wanted = ModelSettings.of(read_order(OwnSettings, request).as_values())
    served = await wholly(_change_model(running, model_id, wanted))
    return shown(running, exactly(running, served.id))


def _model_cache(running: Runtime) -> dict[str, Any]:
    told = limits(running)
    loaded = [model.id for model in running.scheduler.snapshot().models if model.limits is not None]
    return {"max_size": told["max_models"], "ttl_s": told["model_ttl_s"], "loaded": loaded}


async def _change(running: Runtime, changes: Mapping[str, Any]) -> LiveSettings:
    """Tries all of it, keeps it, and has it hold; one change after the other."""
    await wholly(_change_alone(running, changes))
    return running.settings


async def _change_alone(running: Runtime, changes: Mapping[str, Any]) -> None:
    async with running.settings.changing:
        try:
            config = running.settings.tried(changes)
            _policy(config)
            _check_names(running, config, {name for name, value in changes.items() if value is not None})
        except InvalidSetting as error:
            at = next((name for name in changes if name in error.message), "")
            raise InvalidField(error.message, param=at, code="invalid_setting") from None
        await _kept(lambda: running.settings.change(changes))
        policy.install(_policy(config))  # of this moment: the admin token may be another by now
        running.default_model, running.strict_models = config.default_model, config.strict_models
        running.models = running.settings.settled(running.models)
        running.scheduler.limit(scheduler_settings(config))
        running.apply_rules()
        if changes.keys() & STORE:
            await _patiently(running.scheduler.store(lambda store: store.limit(cache_settings(config))))
        if changes.keys() & DISK:
            most, daily = running.settings.disk_bytes, config.ssd_cache_daily_bytes
            await _patiently(running.scheduler.store(lambda store: store.limit_disk(most, daily)))


async def _patiently(order: Future[Any]) -> None:
    """In turn, between two steps. A worker that loads a model keeps nobody waiting: it comes to it afterwards."""
    asked = asyncio.wrap_future(order)
    asked.add_done_callback(lambda done: done.cancelled() or done.exception())
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(asked), PATIENCE_S)


async def _change_model(running: Runtime, model_id: str, wanted: ModelSettings) -> ServedModel:
    async with running.settings.changing:
        served = exactly(running, model_id)
        _check_model(running, served, wanted)
        await _kept(lambda: running.settings.change_model(served.id, wanted))
        running.models = running.settings.settled(running.models)
        running.apply_rules()
    return served


def _policy(config: Config) -> policy.Policy:
    """What the API is to do by these settings. Raises `InvalidSetting`."""
    fresh = policy.Policy.of(config, "")
    return replace(policy.current(), **{name: getattr(fresh, name) for name in _OF_POLICY})


async def _kept(work: Callable[[], object]) -> None:
    """Writes to the disk, off the loop. Raises `Conflict` where that will not have it."""
    try:
        await asyncio.to_thread(work)
    except StartError as error:
        raise Conflict(error.message, code="settings_not_saved") from error


def _check_names(running: Runtime, config: Config, changed: Set[str]) -> None:
    """Every model that a changed setting names is served, and no alias stands for two. A flag may have named others."""
    if "model_aliases" in changed:
        _check_aliases(running, config)
    for setting in changed & {"pinned_models", "default_model"}:
        value = getattr(config, setting)
        for name in value if isinstance(value, tuple) else filter(None, [value]):
            if named(running.models, name) is None:
                raise InvalidSetting(f"{setting}: {name[:64]!r} is not served.")


def _check_aliases(running: Runtime, config: Config) -> None:
    for text in config.model_aliases:
        alias, _, model = text.partition("=")
        if not is_model_name(alias) or named(running.models, model) is None:
            raise InvalidSetting(f"model_aliases: {text[:64]!r} is not ALIAS=MODEL with a model that is served.")
    models = running.settings.settled(running.models, config)
    for wrong in filter(None, (clash(model, models) for model in models)):
        raise InvalidSetting(f"model_aliases: {wrong}")


def _check_model(running: Runtime, served: ServedModel, wanted: ModelSettings) -> None:
    wrong = clash(replace(served, settings=wanted), running.models)
    if wrong is not None:
        raise Conflict(wrong, code="alias_taken")
    if wanted.kv_bits is None and (wanted.kv_group_size is not None or wanted.quantized_kv_start is not None):
        raise InvalidField("kv_group_size and quantized_kv_start need kv_bits.", param="kv_bits")
    checked_args(wanted.template_args)
    if wanted.volatile is not None and policy_of(wanted.volatile) is None:
        raise InvalidField(f"volatile must be one of: {KNOWN}.", param="volatile")


def _row(knob: Knob, live: LiveSettings) -> dict[str, Any]:
    value = getattr(live.config, knob.name)
    return {
        "name": knob.name,
        "value": list(value) if isinstance(value, tuple) else str(value) if knob.name == "state_dir" else value,
        "source": str(live.origin(knob.name)),
        "live": knob.name in LIVE,
        "effect": "live" if knob.name in LIVE else "restart",
        "default": knob.default_text,
        "accepted": knob.range_text,
        "description": knob.about.text,
    }

"""`/api/models`: what is served, what is in memory and what it costs; load, unload. For the admin only.

Inference never loads what is not served. A load serves a model of the cache or of a model root for as long as mlxd
runs; a request may then bring it back after an unload.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import structlog
from django.core.handlers.asgi import ASGIRequest
from django.http import JsonResponse
from ninja import Router

from inference.errors import InferenceError, ModelNotFound
from inference.scheduler import Leave, ModelInUse, ModelView, Receipt
from mlxd import runtime
from mlxd.api.auth import AdminBearer
from mlxd.api.errors import Conflict, InvalidField
from mlxd.api.orders import order_of, read_order
from mlxd.api.plain import plain
from mlxd.api.schemas.admin import LoadOrder, UnloadOrder
from mlxd.api.wholly import wholly
from mlxd.catalog import LocalModel, available, find_allowed
from mlxd.footprint import footprint_bytes
from mlxd.runtime import Runtime
from mlxd.served import ServedModel, clash, named

router = Router(tags=["models"])
admin = AdminBearer()
events = structlog.get_logger(__name__)

UNLOADED: Final = "unloaded"
_loading: set[asyncio.Task[Any]] = set()
"""Loads go on when nobody waits for them any more; the event loop alone would not keep them."""


@router.get("/models", auth=admin, summary="The models served, and which of them are in memory")
async def models(request: ASGIRequest) -> dict[str, Any]:
    running = runtime.current()
    return {"models": [shown(running, model) for model in running.models], **limits(running)}


@router.get("/models/available", auth=admin, summary="The models on this machine that may be loaded")
async def models_available(request: ASGIRequest) -> dict[str, Any]:
    roots = roots_of(runtime.current())
    found = await asyncio.to_thread(lambda: list(available(roots)))
    return {"models": [{"id": one.id, "path": str(one.path), "weights_bytes": one.size_bytes} for one in found]}


@router.post(
    "/models/load",
    auth=admin,
    summary="Bring a model into memory, and serve it from now on",
    openapi_extra=order_of(LoadOrder),
)
async def load(request: ASGIRequest) -> JsonResponse:
    """By the id or alias of a served model, the id of one in the cache, or a directory below a model root."""
    order = read_order(LoadOrder, request)
    if order.model_id is None:
        raise InvalidField("model_id is required.", param="model_id", code="missing_required_parameter")
    running = runtime.current()
    served = await _to_load(running, order.model_id, order.name)
    bringing = asyncio.create_task(_bring(running, served))
    _loading.add(bringing)
    bringing.add_done_callback(_ended)
    if order.wait is False:
        return JsonResponse({"model": {"id": served.id, "path": str(served.path), "state": "loading"}}, status=202)
    return JsonResponse(await asyncio.shield(bringing))


@router.post(
    "/models/unload",
    auth=admin,
    summary="Free the memory of a model, or of all",
    openapi_extra=order_of(UnloadOrder),
)
async def unload(request: ASGIRequest) -> JsonResponse:
    """Answers with what came back. A model in use stays (409) unless `force`, which ends its requests."""
    order = read_order(UnloadOrder, request)
    if order.force and order.drain:
        raise InvalidField("Either force or drain.", param="drain")
    running = runtime.current()
    leave = Leave.NOW if order.force else Leave.DRAINED if order.drain else Leave.UNUSED
    if order.model_id is None:
        ids = [model.id for model in running.scheduler.snapshot().models if model.limits is not None]
        if leave is Leave.UNUSED:
            _refuse_if_used(running, ids)
    else:
        ids = [exactly(running, order.model_id).id]
    receipts = await wholly(_unload_each(running, ids, leave))
    return JsonResponse({"unloaded": [receipt for receipt in receipts if receipt is not None], **limits(running)})


def roots_of(running: Runtime) -> list[Path]:
    return [Path(root).expanduser() for root in running.settings.config.model_roots]


def limits(running: Runtime) -> dict[str, Any]:
    """How many models may be in memory, and who answers where none is named."""
    rules = running.pool_rules()
    default = running.default().id if running.models else None
    return {"max_models": rules.max_models, "model_ttl_s": rules.ttl_s, "default": default}


def shown(running: Runtime, model: ServedModel) -> dict[str, Any]:
    """A served model as the admin sees it. Times are ages in seconds; what is unknown is None."""
    view = running.scheduler.snapshot().model(model.id)
    waiting = Counter(one.model for one in running.scheduler.requests() if one.stage == "waiting")
    told: dict[str, Any] = {
        "id": model.id,
        "path": str(model.path),
        "created": model.created_s,
        "state": UNLOADED if view is None else str(view.state),
        "error": view.error or None if view is not None else None,
        "pinned": model.id in running.pool_rules().pinned,
        "waiting": waiting[model.id],
        "settings": model.settings.as_dict(),
    }
    return told | _resident(view)


def _resident(view: ModelView | None) -> dict[str, Any]:
    if view is None or view.limits is None:
        return {"rows": 0, "rows_bytes": 0, "idle_s": None, "limits": None}
    idle_s = 0.0 if view.rows else max(0.0, time.monotonic() - view.last_used_s)
    return {
        "rows": view.rows,
        "rows_bytes": view.kv_bytes,
        "idle_s": idle_s,
        "limits": plain(asdict(view.limits)),
    }


async def _to_load(running: Runtime, wanted: str, name: str | None) -> ServedModel:
    """The served model of a name or place, else one made of what is on this machine."""
    place = Path(wanted)
    known = named(running.models, wanted) or next((one for one in running.models if one.path == place), None)
    if known is not None:
        if name not in (None, known.id):
            raise Conflict(f"That model is served as {known.id}.", code="model_is_served")
        return known
    found: LocalModel = await asyncio.to_thread(find_allowed, wanted, roots_of(running))
    again = next((one for one in running.models if one.path == found.path), None)
    if again is not None:
        return again
    model_id = name or found.id
    if named(running.models, model_id) is not None:
        raise Conflict(f"Another model is called {model_id}; give this one a name of its own.", code="model_id_taken")
    fresh = ServedModel(model_id, found.path, found.created_s, running.settings.model(model_id))
    if (wrong := clash(fresh, running.models)) is not None:
        raise Conflict(f"Its settings give it names: {wrong} Change one of them first.", code="alias_taken")
    return fresh


async def _bring(running: Runtime, served: ServedModel) -> dict[str, Any]:
    """Its text side first, which costs no memory and shows most of what can be wrong with a directory."""
    began_s, before_bytes = time.monotonic(), footprint_bytes()
    view = running.scheduler.snapshot().model(served.id)
    if view is None or view.limits is None:
        running.read_anew(served.id)
        running.seals.forget(served.path)
    await running.text(served)
    await asyncio.wrap_future(running.scheduler.load(served.ref))
    running.serve(named(running.models, served.id) or served)
    running.apply_rules()
    return {
        "model": shown(running, served),
        "load_s": time.monotonic() - began_s,
        "footprint_bytes": {"before": before_bytes, "after": footprint_bytes()},
    }


def _ended(bringing: asyncio.Task[Any]) -> None:
    _loading.discard(bringing)
    error = None if bringing.cancelled() else bringing.exception()
    if error is not None:
        events.error(
            "model_not_loaded", reason=error.message if isinstance(error, InferenceError) else type(error).__name__
        )


def exactly(running: Runtime, wanted: str) -> ServedModel:
    """The served model of this id, alias or directory. Raises `ModelNotFound`."""
    place = Path(wanted)
    found = named(running.models, wanted) or next((one for one in running.models if one.path == place), None)
    if found is None:
        raise ModelNotFound("There is no model of this name here.", param="model_id")
    return found


def _refuse_if_used(running: Runtime, ids: list[str]) -> None:
    """All or none: whoever frees everything does not want to end up with a part of it."""
    for model_id in ids:
        open_ones = [one for one in running.scheduler.requests() if one.model == model_id]
        if open_ones:
            waiting = sum(one.stage == "waiting" for one in open_ones)
            raise ModelInUse(model_id, len(open_ones) - waiting, waiting)


async def _unload_each(running: Runtime, ids: list[str], leave: Leave) -> list[Mapping[str, Any] | None]:
    """One after the other, so that each receipt is of one model. An error ends it after all were tried."""
    failed: InferenceError | None = None
    receipts: list[Mapping[str, Any] | None] = []
    for model_id in ids:
        try:
            receipts.append(await _unload(running, model_id, leave))
        except InferenceError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return receipts


async def _unload(running: Runtime, model_id: str, leave: Leave) -> Mapping[str, Any] | None:
    before_bytes = footprint_bytes()
    receipt = await asyncio.wrap_future(running.scheduler.unload(model_id, leave))
    running.read_anew(model_id)
    return None if receipt is None else told(receipt, before_bytes)


def told(receipt: Receipt, footprint_before_bytes: int) -> dict[str, Any]:
    """A receipt as JSON: the device's memory and the process's, before and after."""
    before = {**asdict(receipt.before), "footprint_bytes": footprint_before_bytes}
    after = {**asdict(receipt.after), "footprint_bytes": footprint_bytes()}
    facts = {"weights_bytes": receipt.weights_bytes, "freed_bytes": receipt.freed_bytes}
    return {"id": receipt.model_id, **facts, "before": before, "after": after}

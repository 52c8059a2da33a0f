"""Is it alive, is it ready: constant bodies without a name, path or figure, but for the admin."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from django.core.handlers.asgi import ASGIRequest
from django.http import JsonResponse
from ninja import Router

from inference.errors import InferenceError, ModelLoading
from mlxd import runtime
from mlxd.api import policy
from mlxd.api.auth import AdminBearer, Public, credentials
from mlxd.api.errors import InvalidField
from mlxd.api.plain import plain
from mlxd.instance import CHALLENGE, proof

router = Router(tags=["health"])
public = Public()
admin = AdminBearer()
STARTING = "starting"
WITNESSED: Final = ("content_lost", "exact_key_rejected_by_model_lcp")
STORED: Final = ("offset_mismatch", "shared_kv_mutated", "warm_cold_divergence")
"""Counters that are 0 where all is well: those of the witness, and those of the store."""


@router.get("/live", auth=public, summary="The process works; loading a model is not a fault")
async def live(request: ASGIRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"}) if _alive() else JsonResponse({"status": "dead"}, status=503)


@router.get("/ready", auth=public, summary="Requests are answered now")
async def ready(request: ASGIRequest) -> JsonResponse:
    is_ready, reason = _readiness()
    if is_ready:
        return JsonResponse({"status": "ready"})
    return JsonResponse({"status": "not_ready", "reason": reason}, status=503)


@router.get("", auth=public, summary="Both in one; 200 while loading, with the state in the body")
async def health(request: ASGIRequest) -> JsonResponse:
    if not _alive():
        return JsonResponse({"status": "dead", "ready": False}, status=503)
    is_ready, reason = _readiness()
    told: dict[str, Any] = {"status": "ok" if is_ready else reason, "ready": is_ready}
    return JsonResponse(told | ({"detail": detail()} if await _is_admin(request) else {}))


async def _is_admin(request: ASGIRequest) -> bool:
    """Who asks without a credential, or with a wrong one, is answered as anybody is."""
    try:
        return bool(credentials(request)) and bool(await admin(request))
    except InferenceError:
        return False


def detail() -> dict[str, Any]:
    """What must be 0 and is not (`faults`), and how the places do where things are kept; nothing before the start."""
    try:
        view = runtime.current().snapshot()
    except ModelLoading:
        return {}
    store = view.scheduler.store
    counters = {name: view.witness.get(name, 0) for name in WITNESSED}
    counters |= {name: getattr(store, name) if store is not None else 0 for name in STORED}
    return {
        "faults": {name: count for name, count in counters.items() if count},
        "audits": 0 if store is None else store.audits,
        "quarantined_blocks": 0 if store is None else store.quarantined_blocks,
        "disk": None if store is None else plain(asdict(store.disk)),
        "ledger": view.ledger.disk,
    }


@router.get("/identity", auth=public, summary="Proves that this is the daemon of a state directory")
async def identity(request: ASGIRequest, challenge: str = "") -> JsonResponse:
    """Only who can read the directory's secret can tell whether the proof is right, or make one."""
    if not CHALLENGE.fullmatch(challenge):
        raise InvalidField("challenge is 64 hex digits.", param="challenge")
    return JsonResponse({"proof": proof(policy.current().secret, challenge)})


def _alive() -> bool:
    try:
        return runtime.current().live()
    except ModelLoading:  # there is no runtime yet, so there is no worker that could have died
        return True


def _readiness() -> tuple[bool, str]:
    try:
        return runtime.current().readiness()
    except ModelLoading:
        return False, STARTING

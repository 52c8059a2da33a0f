"""Is it alive, is it ready: constant bodies without a name, path or figure (T62)."""

from __future__ import annotations

from django.core.handlers.asgi import ASGIRequest
from django.http import JsonResponse
from ninja import Router

from inference.errors import ModelLoading
from mlxd import runtime
from mlxd.api import policy
from mlxd.api.auth import Public
from mlxd.api.errors import InvalidField
from mlxd.instance import CHALLENGE, proof

router = Router(tags=["health"])
public = Public()
STARTING = "starting"


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
    return JsonResponse({"status": "ok" if is_ready else reason, "ready": is_ready})


@router.get("/identity", auth=public, summary="Proves that this is the daemon of a state directory")
async def identity(request: ASGIRequest, challenge: str = "") -> JsonResponse:
    """Only who can read the directory's secret can tell whether the proof is right, or make one (T20)."""
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

"""The login, and the status page: one read of the runtime's view, drawn as HTML."""

from __future__ import annotations

from dataclasses import dataclass

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from mlxd import runtime
from mlxd.keys.pages import open_to_all, signed_in

PAGE = "dashboard/status.html"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """A served model as the page shows it. While it is not in memory bytes are None and `context` (tokens) a dash."""

    id: str
    state: str
    error: str
    context: str
    weights_bytes: int | None
    kv_bytes: int | None
    rows: int


@open_to_all
async def login(request: HttpRequest) -> HttpResponse:
    """Where a browser is signed in, also one that is and may only look. It says nothing of what goes on here."""
    response = render(request, "dashboard/login.html")
    response["Cache-Control"] = "no-store"
    return response


@signed_in
async def status(request: HttpRequest) -> HttpResponse:
    """The whole page, or with `?part=figures` only what changes."""
    view = runtime.current().snapshot()
    ready, reason = runtime.current().readiness()
    store = view.scheduler.store
    context = {
        "view": view,
        "hit_percent": 100 * store.hit_ratio if store else 0.0,
        "cache_bytes": store.room_bytes if store else 0,
        "faults": faults(view),
        "scheduler": view.scheduler,
        "models": model_rows(view),
        "ready": ready,
        "reason": reason.replace("_", " "),
        "uptime": duration(view.uptime_s),
        "base_url": f"http://{request.get_host()}/v1",
    }
    part = "#figures" if request.GET.get("part") == "figures" else ""
    return render(request, PAGE + part, context)


def faults(view: runtime.RuntimeView) -> tuple[tuple[str, int], ...]:
    """Counters that are 0 where all is well, and those of them that are not."""
    store, witness = view.scheduler.store, view.witness
    counted = {
        "texts of requests that were not read": witness.get("content_lost", 0),
        "echoes that read otherwise": witness.get("exact_key_rejected_by_model_lcp", 0),
        "rows of the wrong length": store.offset_mismatch if store else 0,
        "stored blocks that had changed": store.shared_kv_mutated if store else 0,
        "audits that found stored blocks untrue": store.warm_cold_divergence if store else 0,
    }
    return tuple((name, count) for name, count in counted.items() if count)


def model_rows(view: runtime.RuntimeView) -> tuple[ModelRow, ...]:
    return tuple(_model_row(served, view) for served in view.models)


def _model_row(served: runtime.ServedModel, view: runtime.RuntimeView) -> ModelRow:
    resident = view.scheduler.model(served.id)
    limits = resident.limits if resident else None
    return ModelRow(
        id=served.id,
        state=resident.state.value if resident else "not loaded",
        error=resident.error if resident else "",
        context=f"{limits.context_tokens:,}" if limits else "–",
        weights_bytes=limits.weights_bytes if limits else None,
        kv_bytes=resident.kv_bytes if resident and limits else None,
        rows=resident.rows if resident else 0,
    )


def duration(seconds: float) -> str:
    """A time span in its two largest units, e.g. `3 h 12 min`."""
    left = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])

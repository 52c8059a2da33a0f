"""What came of computing warm requests once more: a row for each audit, the last ten thousand of them. No content."""

from __future__ import annotations

from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from inference.prefix_store import AuditResult
from mlxd.ledger.journal import Write
from mlxd.ledger.models import Audit

KEPT: Final = 10_000
SAME, QUARANTINED = "same", "quarantined"
_FIGURES: Final = (
    "model", "prompt_tokens", "depth_tokens", "cold_from", "steps", "diverged_step", "distance", "kv_distance",
    "tolerance", "verdict", "quarantined_from", "quarantined_blocks", "took_s",
)  # fmt: skip


def audit_write(result: AuditResult, at_s: float) -> Write:
    """Puts a result into its table, for the journal's thread; the oldest go."""
    kinds = ",".join(result.kinds)
    figures = {name: getattr(result, name) for name in _FIGURES if name != "verdict"}
    figures |= {name: figures[name] if isfinite(figures[name]) else None for name in ("distance", "kv_distance")}
    verdict = QUARANTINED if result.diverged else SAME

    def write() -> None:
        row = Audit.objects.create(at=datetime.fromtimestamp(at_s, tz=UTC), kinds=kinds, verdict=verdict, **figures)
        Audit.objects.filter(pk__lte=row.pk - KEPT).delete()

    return write


def audits(limit: int, before: int | None) -> list[dict[str, Any]]:
    """The newest first; `before` is the number of the last one seen. A distance of None is no number at all. Blocks."""
    rows = Audit.objects.order_by("-pk")
    if before is not None:
        rows = rows.filter(pk__lt=before)
    return [_told(row) for row in rows[:limit]]


def _told(row: Audit) -> dict[str, Any]:
    kinds = row.kinds.split(",") if row.kinds else []
    figures = {name: getattr(row, name) for name in _FIGURES}
    return {"number": row.pk, "at_s": row.at.timestamp(), "kinds": kinds, **figures}

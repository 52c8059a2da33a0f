"""Forgets what is older than the days it may be kept, a little at a time: the journal's thread has other work."""

from __future__ import annotations

import time

from mlxd.ledger.models import Generation, Session, Turn
from mlxd.ledger.rows import moment

CHUNK = 500
DAY_S = 86_400.0


def sweep(days: float, *, now_s: float | None = None) -> bool:
    """Deletes at most a chunk of each kind; True: there is more. 0 days keeps everything."""
    if not days:
        return False
    before = moment((time.time() if now_s is None else now_s) - days * DAY_S)
    turns = Turn.objects.filter(at__lt=before).values("pk")[:CHUNK]
    generations = Generation.objects.filter(began_at__lt=before).values("pk")[:CHUNK]
    sessions = Session.objects.filter(touched_at__lt=before, turns=None).values("pk")[:CHUNK]
    deleted = (
        Turn.objects.filter(pk__in=turns).delete()[0],
        Generation.objects.filter(pk__in=generations).delete()[0],
        Session.objects.filter(pk__in=sessions).delete()[0],
    )
    return max(deleted) >= CHUNK

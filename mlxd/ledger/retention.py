"""Forgets what is older than the days it may be kept, a little at a time: the journal's thread has other work.

Content goes with its turn, and the oldest of it before that where there is more than the disk is to be given to it.
"""

from __future__ import annotations

import time
from typing import Final

from django.db.models import Model, Sum

from mlxd.ledger.models import Generation, Memory, Session, Spoken, Turn
from mlxd.ledger.rows import moment

CHUNK = 500
DAY_S = 86_400.0
CONTENT_ROWS: Final = 100_000
CONTENT_BYTES: Final = 256 << 20
"""Each of what was said and of what was read. An answer of a thousand ids has about 9 kB."""


def sweep(days: float, *, now_s: float | None = None) -> bool:
    """Deletes at most a chunk of each kind; True: there is more. 0 days keeps everything but too much content."""
    aged = _forget_before((time.time() if now_s is None else now_s) - days * DAY_S) if days else False
    bounded = [_bound(Spoken), _bound(Memory)]
    return aged or any(bounded)


def _forget_before(time_s: float) -> bool:
    before = moment(time_s)
    turns = Turn.objects.filter(at__lt=before).values("pk")[:CHUNK]
    generations = Generation.objects.filter(began_at__lt=before).values("pk")[:CHUNK]
    alone = Spoken.objects.filter(at__lt=before, turn=None).values("pk")[:CHUNK]
    sessions = Session.objects.filter(touched_at__lt=before, turns=None).values("pk")[:CHUNK]
    deleted = (
        Turn.objects.filter(pk__in=turns).delete()[0],
        Generation.objects.filter(pk__in=generations).delete()[0],
        Spoken.objects.filter(pk__in=alone).delete()[0],
        Session.objects.filter(pk__in=sessions).delete()[0],
    )
    return max(deleted) >= CHUNK


def _bound(table: type[Model]) -> bool:
    """Deletes the oldest rows of a table of content, as far as they are too many or too large."""
    rows = table._default_manager
    count = rows.count()
    over_bytes = (rows.aggregate(total=Sum("size"))["total"] or 0) - CONTENT_BYTES
    doomed = []
    for at, (key, size) in enumerate(rows.order_by("at").values_list("pk", "size")[:CHUNK]):
        if count - at <= CONTENT_ROWS and over_bytes <= 0:
            break
        doomed.append(key)
        over_bytes -= size
    rows.filter(pk__in=doomed).delete()
    return len(doomed) == CHUNK

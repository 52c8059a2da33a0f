"""Changes that are made to their end, though whoever ordered them leaves meanwhile.

A request ends with its connection, wherever it is. A change that is on the disk and not yet in memory must not: a key
that was removed would open doors until the next start, and a token that was replaced would stay the admin's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from inference.errors import InferenceError

log = structlog.get_logger(__name__)
_running: set[asyncio.Task[Any]] = set()
"""The event loop alone would not keep them."""


async def wholly[Done](change: Coroutine[Any, Any, Done]) -> Done:
    """What a change comes to. It goes on where the caller is cancelled; how it ended is then in the log alone."""
    task = asyncio.create_task(change)
    _running.add(task)
    task.add_done_callback(_running.discard)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_unheard)
        raise


def _unheard(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        reason = error.message if isinstance(error, InferenceError) else type(error).__name__
        log.error("change_failed", reason=reason)

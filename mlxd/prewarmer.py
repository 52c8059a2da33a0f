"""Computes chosen system prompts before anybody asks: at the start, when nothing else is to be done.

What is computed (or read from the disk) is the beginning that every conversation with that prompt and those tools has,
up to where the user's words begin. It gives way to every request: who arrives has it cancelled within a step; what was
completed of it stays, and whoever needs the same beginning goes on from there.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Final

import structlog

from inference.errors import BusyError, InferenceError
from inference.events import Admitted, Failed, Finished
from inference.params import CacheScope
from inference.scheduler import Request
from inference.tokens import Prompt
from mlxd.api.generate import KEYLESS, cache_salt
from mlxd.api.openai import ask_chat
from mlxd.conversing import Asking
from mlxd.keys import access
from mlxd.prewarm import Chosen, Prewarmed
from mlxd.runtime import Runtime

POLL_S: Final = 0.05
"""How soon it is seen that somebody has come, or that nobody is there any more."""
UNLOADED_S: Final = 0.5
"""As for a model that nobody has asked for yet: it may never come."""

events = structlog.get_logger(__name__)


class Prewarmer:
    """Works through the chosen prompts, on the event loop. What has come of each is in the runtime's `prewarmed`."""

    def __init__(self, running: Runtime, chosen: Sequence[Chosen]) -> None:
        self._running = running
        self._chosen = chosen

    async def run(self) -> None:
        """Returns when all are there, or the daemon is about to end."""
        for number, one in enumerate(self._chosen):
            try:
                told = await self._warm(one, f"prewarm {number}")
            except BusyError:
                return
            except InferenceError as error:
                told = Prewarmed(one.name, "", error.code)
            self._running.prewarmed.append(told)
            events.info("prewarmed", **asdict(told))

    async def _warm(self, one: Chosen, session: str) -> Prewarmed:
        prepared = await self._prepared(one, session)
        model_id, tokens = prepared.model.id, len(prepared.prompt)
        if tokens < 2:
            return Prewarmed(one.name, model_id, "nothing_in_common")
        cached: int | None = None
        began_s, spent_s, finished = 0.0, 0.0, False
        while not finished:
            await self._idle(model_id)
            began_s = time.monotonic()
            before, finished = await self._compute(prepared)
            spent_s += time.monotonic() - began_s
            cached = before if cached is None else cached
        found = await asyncio.wrap_future(self._running.scheduler.store(lambda store: (store.pin(session),)))
        pinned = found is not None and found[0] is not None
        return Prewarmed(one.name, model_id, "done", tokens, cached or 0, round(spent_s, 3), pinned)

    async def _prepared(self, one: Chosen, session: str) -> Request:
        running = self._running
        raw = json.dumps(one.body).encode()
        ask = await ask_chat(raw)
        served = running.resolve(ask.body.model)
        text = await running.text(served)
        salt = cache_salt(ask.body, access.KEYLESS)
        asking = Asking(
            params=ask.params,
            conversation=ask.conversation,
            client=KEYLESS,
            body_bytes=len(raw),
            salt=salt,
            counted=False,
        )
        understood = await running.conversing.understand(served.ref, text, asking)
        return Request(
            id=session.replace(" ", "-"),
            model=served.ref,
            tokenizer=text.tokenizer,
            prompt=beginning(understood.prompt),
            params=replace(ask.params, max_tokens=1, n=1, grammar=None, thinking_budget_tokens=None),
            context_tokens=text.context_tokens,
            cache=CacheScope(understood.scope.salt, understood.scope.template, session),
        )

    async def _idle(self, model_id: str) -> None:
        """Until the model is in memory and nobody is served or waits."""
        while True:
            view = self._running.scheduler.snapshot()
            model = view.model(model_id)
            loaded = model is not None and model.limits is not None
            if view.draining or (view.memory is not None and not view.alive):
                raise BusyError("The daemon is about to end.", retry_after_s=1)
            if loaded and not view.queue_depth and not view.rows:
                return
            await asyncio.sleep(POLL_S if loaded else UNLOADED_S)

    async def _compute(self, request: Request) -> tuple[int, bool]:
        """One attempt: what was cached for it, and whether it ended before anybody else asked for anything."""
        scheduler = self._running.scheduler
        generation = scheduler.submit(request)
        alone = scheduler.snapshot().counters.submitted
        cached = 0
        try:
            while True:
                for event in await generation.next_batch(POLL_S):
                    match event:
                        case Admitted(cached_tokens=cached):
                            pass
                        case Finished():
                            return cached, True
                        case Failed(error=error):
                            raise error
                if scheduler.snapshot().counters.submitted != alone:
                    return cached, False
        finally:
            generation.cancel()


def beginning(prompt: Prompt) -> Prompt:
    """What stands before the words of the last message: the same whatever they are."""
    last = max((one.message for one in prompt.boundaries), default=0)
    end = next((one.token for one in prompt.boundaries if one.message == last), 0)
    boundaries = tuple(one for one in prompt.boundaries if one.token < end)
    return Prompt(prompt.ids[:end], boundaries)

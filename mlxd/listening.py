"""One request's answers on their way into memory: taken down on the worker's thread, understood away from it.

The worker computes for everybody; telling a thought from an answer takes 0.3 ms per thousand ids that no stream would
get a token in. So it only leaves here what it drew, and whoever waits for the end of the answer does the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import structlog

from inference.conversation.healing import HealingStore, Recognised, Said
from inference.conversation.spoken import SpokenTurn, raw_turn
from inference.conversation.text_model import TextModel
from inference.scheduler import Spoken, Thinking
from inference.streaming.splitter import ReasoningMode
from inference.tokens import Prompt

OFF_LOOP_IDS: Final = 1000
"""A longer answer would hold all streams up for a third of a millisecond and more."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Listening:
    """`found` is what was recognised in the request; its `prefix` is what the answers stand behind. `session` is the
    one they belong to."""

    store: HealingStore
    found: Recognised
    text: TextModel
    prompt: Prompt
    thinking: Thinking | None
    session: str = ""
    _heard: deque[Spoken] = field(default_factory=deque)

    def note(self, spoken: Spoken) -> None:
        """Takes down an answer that came to its end. On the worker's thread; costs it nothing."""
        self._heard.append(spoken)

    async def said(self) -> tuple[Said, ...]:
        """Takes what was noted into the store. An answer that cannot be understood is left out, and logged."""
        heard = [self._heard.popleft() for _ in range(len(self._heard))]
        if sum(len(spoken.ids) for spoken in heard) > OFF_LOOP_IDS:
            return await asyncio.to_thread(self._remembered, heard)
        return self._remembered(heard)

    def _remembered(self, heard: list[Spoken]) -> tuple[Said, ...]:
        said = []
        for spoken in heard:
            try:
                kept = self._remember(spoken)
            except Exception as error:  # its client gets it all the same
                log.error("answer_not_remembered", error=type(error).__name__)
                continue
            said += [] if kept is None else [kept]
        return tuple(said)

    def _remember(self, spoken: Spoken) -> Said | None:
        thinking = self.thinking
        tags = None if thinking is None else (thinking.opener, thinking.closer)
        inside = thinking is not None and thinking.mode is ReasoningMode.PREFILLED
        raw = raw_turn(self.text, self.prompt, spoken.ids, tags, inside=inside)
        if raw is None:
            return None
        turn = SpokenTurn(raw, spoken.text, spoken.reasoning, spoken.calls)
        place = self.store.remember(self.found.scope, self.found.prefix, turn, self.session)
        return None if place is None else Said(place, turn)

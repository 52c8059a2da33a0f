"""The turns this process has spoken: recognised when a request sends them back, remembered when an answer ends.

What is remembered is in the store before the client reads that its answer is over: an agent's next request comes
within milliseconds of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from inference.conversation.healing import HealingStore, Recognised
from inference.conversation.preparer import LARGE_BODY_BYTES
from inference.conversation.preparer_process import Echoed
from inference.conversation.render import Rendered
from inference.conversation.spoken import SpokenTurn, raw_turn
from inference.conversation.text_model import TextModel
from inference.messages import Conversation
from inference.scheduler import Spoken, Thinking
from inference.streaming.splitter import ReasoningMode
from inference.tokens import Prompt


@dataclass(frozen=True, slots=True)
class Echoes:
    """One per process."""

    store: HealingStore = field(default_factory=HealingStore)

    async def recognise(
        self,
        model_id: str,
        text: TextModel,
        conversation: Conversation | None,
        salt: bytes,
        body_bytes: int,
        *,
        counted: bool = True,
    ) -> Recognised | None:
        """Which messages of a request are turns of ours; off the loop where the body is large.

        Turns are shared by the requests of one model, one text side of it, and one `salt`. None: there are no messages,
        or the last of them is to be continued, so that the answer will be no turn.
        """
        if conversation is None or conversation.continue_final:
            return None
        scope = f"{model_id}\0{text.digest}\0{salt.hex()}"
        work = partial(self.store.recognise, scope, conversation, text.traits.think, counted=counted)
        return await asyncio.to_thread(work) if body_bytes > LARGE_BODY_BYTES else work()

    def counted(self, rendered: Rendered) -> Prompt:
        """The prompt; turns that were recognised and had no place of their own in the render are counted."""
        if unspliced := rendered.adaptations.get("unspliced"):
            self.store.count({"unspliced": unspliced})
        return rendered.prompt

    def note(
        self, found: Recognised | None, text: TextModel, prompt: Prompt, thinking: Thinking | None
    ) -> Callable[[Spoken], None] | None:
        """What is to be called with the answer to a prompt; None for one that no later request can send back."""
        return None if found is None else partial(self._remember, found, text, prompt, thinking)

    def _remember(
        self, found: Recognised, text: TextModel, prompt: Prompt, thinking: Thinking | None, spoken: Spoken
    ) -> None:
        tags = None if thinking is None else (thinking.opener, thinking.closer)
        inside = thinking is not None and thinking.mode is ReasoningMode.PREFILLED
        raw = raw_turn(text, prompt, spoken.ids, tags, inside=inside)
        if raw is not None:
            turn = SpokenTurn(raw, spoken.text, spoken.reasoning, spoken.calls)
            self.store.remember(found.scope, found.prefix, turn)


def with_raw(conversation: Conversation, found: Recognised | None) -> Conversation | Echoed:
    """A conversation as it is to be rendered."""
    return conversation if found is None or not found.raw else Echoed(conversation, found.raw)

"""The turns this process has spoken: recognised when a request sends them back, remembered when an answer ends.

What is remembered is in the store before the client reads that its answer is over: an agent's next request comes
within milliseconds of it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from inference.conversation.healing import HealingStore, Place, Recognised, Seek
from inference.conversation.meaning import Meaning, Sayings
from inference.conversation.preparer import LARGE_BODY_BYTES
from inference.conversation.render import Rendered
from inference.conversation.spoken import SpokenTurn
from inference.conversation.text_model import TextModel
from inference.errors import BusyError
from inference.scheduler import Thinking
from inference.tokens import Prompt
from mlxd.kept_tools import GivenTools
from mlxd.listening import Listening


class Shelf(Protocol):
    """Where turns are that fell out of the store, or that an earlier process kept."""

    def may_hold(self, place: Place) -> bool:
        """False: there is no turn at this place. At once."""

    async def seek[T](self, work: Callable[[Seek], T]) -> T:
        """Work that looks places up, done where it may wait. Raises `BusyError`."""


@dataclass(frozen=True, slots=True)
class Echoes:
    """One per process. `sayings` knows what messages mean that were read before, `tools` those that conversations were
    given."""

    store: HealingStore = field(default_factory=HealingStore)
    shelf: Shelf | None = None
    sayings: Sayings = field(default_factory=Sayings)
    tools: GivenTools = field(default_factory=GivenTools)

    async def recognise(
        self,
        model_id: str,
        text: TextModel,
        meaning: Meaning | None,
        salt: bytes,
        body_bytes: int,
        *,
        counted: bool = True,
    ) -> Recognised | None:
        """Which messages of a request are turns of ours; off the loop where the body is large.

        Turns are shared by the requests of one model, one text side of it, and one `salt`. None: there are no messages,
        or the last of them is to be continued, so that the answer will be no turn.
        """
        if meaning is None or meaning.conversation.continue_final:
            return None
        scope = f"{model_id}\0{text.digest}\0{salt.hex()}"
        missed: list[Place] = []
        work = partial(self.store.recognise, scope, meaning, counted=False)
        known = partial(work, seek=partial(_noted, missed))
        found = await asyncio.to_thread(known) if body_bytes > LARGE_BODY_BYTES else known()
        if self.shelf is not None and any(map(self.shelf.may_hold, missed)):
            found = await self._looked_up(self.shelf, found, work)
        if counted:
            self.store.count(Counter(outcome.value for outcome in found.outcomes.values()))
        return found

    async def _looked_up(self, shelf: Shelf, found: Recognised, work: Callable[..., Recognised]) -> Recognised:
        """The same once more, with what is on the disk; `found` where that cannot be read."""
        try:
            return await shelf.seek(lambda seek: work(seek=seek))
        except BusyError:
            return found

    def counted(self, rendered: Rendered) -> Prompt:
        """The prompt; turns that were recognised and had no place of their own in the render are counted."""
        if unspliced := rendered.adaptations.get("unspliced"):
            self.store.count({"unspliced": unspliced})
        return rendered.prompt

    def listening(
        self, found: Recognised | None, text: TextModel, prompt: Prompt, thinking: Thinking | None, session: str = ""
    ) -> Listening | None:
        """Who is to hear the answers to a prompt; None for those that no later request can send back."""
        return None if found is None else Listening(self.store, found, text, prompt, thinking, session)

    def forget(self, session: str) -> int:
        """Lets go of the answers of a session, and of whatever was read of anybody's messages; how many answers."""
        self.sayings.forget()
        self.tools.forget()
        return self.store.forget_session(session)


def _noted(places: list[Place], place: Place) -> tuple[SpokenTurn, ...]:
    places.append(place)
    return ()

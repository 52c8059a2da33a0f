"""Small invented conversations in the shapes in which real agents drift, and a client that replays one.

Paths, names and words are made up. A `Client` keeps its own history and changes it between requests as its agent does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference.conversation.binding import Bound, bind
from inference.conversation.lineage_memory import LineageMemory, proven
from inference.conversation.volatile_policy import BIND, VolatilePolicy
from inference.messages import Conversation, Message, Role
from tests.conversations import assistant, call, result, system, talk, user

_ids = itertools.count(1)


def instructions(*parts: str) -> Message:
    """A system message in parts."""
    return Message(Role.SYSTEM, user(*parts).parts)


def openclaw_tail(sessions: str = "none") -> Message:
    body = f'Conversation data (data, not instructions):\n"Active exec sessions:\\n{sessions}"'
    return user(f"<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>\n{body}\n<<<END_OPENCLAW_INTERNAL_CONTEXT>>>")


def dated_system(day: str, before: str = "You are a careful agent in /srv/orchard.") -> Message:
    return system(f"{before}\nCurrent date: {day}\nCurrent working directory: /srv/orchard")


def git_system(status: str) -> Message:
    return system(
        "You tend an orchard of code.\n\ngitStatus: How things stood when this began.\nCurrent branch: main\n\n"
        f"Main branch (for pull requests): main\n\nStatus:\n{status}\n\n"
        "Recent commits:\n4e9e124 plant a tree\n\nBe brief."
    )


def qwen_date(day: str) -> str:
    return f"<system-reminder>\nThe current date is: {day}. Note: this is the date that counts.\n</system-reminder>"


def channel_message(message_id: str, text: str) -> Message:
    info = f'{{\n  "message_id": "{message_id}",\n  "sender": "ada"\n}}'
    return user(f"Conversation info (untrusted metadata):\n```json\n{info}\n```\n\n{text}")


def billing(suffix: str) -> str:
    return f"x-anthropic-billing-header: cc_version=2.1.330.{suffix}; cc_entrypoint=cli;"


@dataclass
class Client:
    """One session: what it sends, and what the server remembers of it. `bound` is the last request as it was read."""

    memory: LineageMemory = field(default_factory=LineageMemory)
    policy: VolatilePolicy = BIND
    session: str = ""
    bound: Bound | None = None

    def ask(self, *messages: Message, candidates: Sequence[LineageMemory] | None = None) -> Bound:
        """Sends a whole history; the server looks among `candidates` for the lineage, by default in this one's own."""
        conversation = talk(*messages)
        known = [self.memory] if candidates is None else candidates
        self.bound = bind(conversation, proven(known, conversation, self.session), self.policy)
        return self.bound

    def answered(self, *call_ids: str) -> LineageMemory:
        assert self.bound is not None
        self.memory = self.bound.memory.answered(call_ids, self.session)
        return self.memory


def step(text: str = "") -> tuple[str, Message, Message]:
    """A call as the server minted it, and its result."""
    minted = f"call_orchard{next(_ids):06d}"
    return minted, assistant(text, call(minted)), result(minted, f"alpha {minted}")


def texts(conversation: Conversation) -> list[str]:
    return [message.text for message in conversation.messages]

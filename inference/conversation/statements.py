"""How a changed value is told, and where: once, in what the client has just added, and by the name of what it replaces.

Never inside a tool's result, which is data, and never in a message that was sent before, which the model has read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inference.conversation.lineage_memory import Draft
from inference.conversation.volatile import VolatileRule
from inference.messages import Conversation, Message, Role, TextPart

STATED = "mlxd.stated"
"""The path of text that mlxd put into a prompt."""


def changed(rule: VolatileRule, old: str, new: str) -> str:
    old, new = old.strip(), new.strip()
    if "\n" in old or "\n" in new:
        return f"Update: the {rule.title} above is replaced by this:\n{new}"
    return f'Update: "{old}" is replaced by "{new}"'


def gone(rule: VolatileRule, old: str) -> str:
    old = old.strip()
    what = f"the {rule.title} above" if "\n" in old else f'"{old}"'
    return f"Update: {what} is no longer current."


def pointer(rule: VolatileRule) -> str:
    """Stands for a relocated span, the same in every conversation."""
    return f"({rule.title}: see the end of the first message)\n"


def relocated(rule: VolatileRule, text: str) -> str:
    return f"{rule.title}:\n{text.strip()}"


def part(statement: str) -> TextPart:
    return TextPart(f"\n\n{statement}", STATED)


def own_message(statement: str) -> Message:
    return Message(Role.SYSTEM, (TextPart(statement, STATED),), path=STATED)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where statements go: the end of message `number` of the request, or, when None, a message behind the last."""

    number: int | None


def spot(new: Sequence[Draft], conversation: Conversation) -> Spot | None:
    """The end of the newest user message among the `new` ones, else a message of its own; None: there is no place."""
    if conversation.continue_final or not new or new[-1].message.role is Role.ASSISTANT:
        return None
    for draft in reversed(new):
        if draft.message.role is Role.ASSISTANT:
            break
        if draft.message.role is Role.USER and draft.whole is None:
            return Spot(draft.number)
    return Spot(None)


def first_turn_end(drafts: Sequence[Draft]) -> int | None:
    """The number of the last user message before the first answer; None when there is none."""
    found = None
    for draft in drafts:
        if draft.message.role in (Role.ASSISTANT, Role.TOOL):
            break
        if draft.message.role is Role.USER and draft.whole is None:
            found = draft.number
    return found

"""How many tokens a request needs computed at least, by this probe's own reading of the model's text side.

necessary(R) = |R| - the longest common prefix of R with any earlier prompt, or prompt and answer; at least 1. To an
answer that the model ended itself belongs the token that ended it: templates write it too, and who has fed it to the
model may keep it. Nothing of the server under test is used, and nothing of a prefix tree: every earlier sequence is
compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from inference.conversation.render import render
from inference.conversation.text_model import TextModel
from inference.tokens import Prompt, TokenIds
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from mlxd.api.validate import validate
from mlxd.probe.scenarios import Message


@dataclass(slots=True)
class Oracle:
    """Remembers what one server was sent and has answered."""

    text: TextModel
    _seen: list[TokenIds] = field(default_factory=list)

    def prompt(self, messages: Sequence[Message]) -> Prompt:
        """The ids that the model reads for these messages."""
        return render(self.text, convert_chat(validate(ChatRequest, {"messages": [*messages]})))

    def necessary(self, messages: Sequence[Message]) -> tuple[int, int]:
        """(tokens that must be computed, tokens in all). The request counts as seen from now on."""
        ids = self.prompt(messages).ids
        known = max((common(ids, seen) for seen in self._seen), default=0)
        self._seen.append(ids)
        return max(1, len(ids) - known), len(ids)

    def answered(self, messages: Sequence[Message], answer: Message, *, ended: bool = False) -> None:
        """The answer's tokens are known too, as far as an echo of the answer begins with them.

        `ended` says that the model ended it, and did not run into a limit.
        """
        conversation = convert_chat(validate(ChatRequest, {"messages": [*messages, answer]}))
        spoken = render(self.text, replace(conversation, continue_final=True)).ids
        self._seen.append(spoken)
        closed = render(self.text, conversation).ids if ended else ()
        if closed[: len(spoken)] == spoken:
            self._seen.append(closed[: len(spoken) + 1])


def common(left: TokenIds, right: TokenIds) -> int:
    """The length of the longest common prefix."""
    size = min(len(left), len(right))
    if left[:size] == right[:size]:
        return size
    return next(at for at in range(size) if left[at] != right[at])

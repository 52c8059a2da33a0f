"""Makes a server answer what a conversation of the probe needs, by what it offers everyone.

Small models make no calls of their own, and an agent's next request hangs on them. vLLM's `structured_outputs.choice`
holds an answer to one text; OpenAI's `logit_bias` keeps the model from a call of its own invention before it. The call
is spelled out in plain letters then, which is no less a call to who reads the answer. A thought before it is the
model's own, and `thinking_budget` ends it. A server that knows none of these answers what it likes, and the caller
sees that.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from inference.conversation.text_model import TextModel
from mlxd.probe.asks import NOTHING, Message, Said
from mlxd.probe.spoken import written

OPENER: Final = "<tool_call>"
MAX_CHARS: Final = 4096
NEVER: Final = -100
THOUGHT: Final[Mapping[str, Any]] = MappingProxyType({"thinking_budget": 24})
"""For every request with an answer that is asked for: a random model never ends a thought by itself."""


def text_of(said: Said) -> str:
    """An answer as one text, calls as most models write them."""
    calls = written(list(said.calls))
    return f"{said.text}\n{calls}" if said.text and calls else said.text or calls


def fields(text: TextModel, said: Said | None, max_tokens: int) -> Mapping[str, Any]:
    """Fields of a request's body under which it is answered so; none for whatever comes, or for what cannot be held.

    `max_tokens` are left for the thought.
    """
    whole = text_of(said) if said is not None else ""
    if not whole or len(whole) > MAX_CHARS:
        return NOTHING
    found: dict[str, Any] = {
        "structured_outputs": {"choice": [whole]},
        "max_tokens": max_tokens + len(whole.encode()),
    }
    opener = text.tokenizer.encode_template(OPENER)
    return found | ({"logit_bias": {str(opener[0]): NEVER}} if len(opener) == 1 else {})


def obeyed(said: Said, answer: Message) -> bool:
    """Whether as many calls were made, of the same functions."""
    names = [call["function"]["name"] for call in answer.get("tool_calls") or ()]
    return names == [name for name, _ in said.calls]

"""The ids of an answer as a model may have written them, made from what its server told of it.

A server tells text, thoughts and calls, not ids. What is made here need not be what was written to the letter: the
same ids stand for an answer where it was given and where it is sent back, so that only what stands around it counts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Final

from inference.conversation.render import render
from inference.conversation.spoken import RawTurn, raw_turn
from inference.conversation.text_model import TextModel
from inference.messages import Conversation
from inference.tokens import Prompt, TokenIds
from mlxd.probe.asks import Message

CLOSING: Final = 3
"""Servers count the marker that ends a thought, and the blank lines behind it, with the thought or with the rest."""


@dataclass(frozen=True, slots=True)
class Raws:
    """By session and answer."""

    _kept: dict[tuple[str, str], RawTurn] = field(default_factory=dict)

    def keep(self, session: str, answer: Message, raw: RawTurn) -> None:
        self._kept[session, json.dumps(answer, sort_keys=True)] = raw

    def of(self, session: str, message: Message) -> RawTurn | None:
        return (
            self._kept.get((session, json.dumps(message, sort_keys=True))) if message["role"] == "assistant" else None
        )


def raw_of(text: TextModel, prompt: Prompt, answer: Message, *, ended: bool, said_tokens: int = 0) -> RawTurn | None:
    """None where a past turn cannot be read as ids, or where it is none: a thought that never ended.

    What a model is held to it may spell in more ids than a tokenizer would: at least `said_tokens` behind its thought.
    """
    if text.traits.seams is None or text.traits.channels:
        return None
    said, thought = (answer.get("content") or "") + calls_text(answer), answer.get("reasoning_content") or ""
    tags, inside = text.traits.think, _inside(text, prompt)
    if (thought and (tags is None or not (said or ended))) or not (thought or said):
        return None
    opening = "" if tags is None or not thought or inside else f"{tags[0]}\n"
    closing = "" if tags is None or not (thought or inside) else f"\n{tags[1]}\n\n"
    encode = text.tokenizer.encode_template
    before = encode(opening + thought + closing) if opening + thought + closing else ()
    ids = encode(said)
    more = said_tokens - len(ids) - (CLOSING if before else 0)
    spoken = (*before, *ids, *(ids[-1:] * max(0, more)))
    return raw_turn(text, prompt, spoken, tags, inside=inside and bool(closing))


def _inside(text: TextModel, prompt: Prompt) -> bool:
    """An answer to this prompt begins in a thought that the header has opened."""
    if text.traits.think is None or not prompt.opener_tokens:
        return False
    opener = b"".join(map(text.tokenizer.token_bytes, prompt.ids[-prompt.opener_tokens :]))
    return text.traits.think[1].encode() not in opener


def calls_text(answer: Message) -> str:
    """The calls of an answer in the form that most models write."""
    functions = [call["function"] for call in answer.get("tool_calls") or ()]
    return written([(one["name"], one["arguments"]) for one in functions])


def written(calls: list[tuple[str, str]]) -> str:
    """Calls as text: the form that is read whatever the model, arguments to the letter."""
    forms = (f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {args}}}' for name, args in calls)
    return "\n".join(f"<tool_call>\n{form}\n</tool_call>" for form in forms)


def without_raw(text: TextModel, with_answer: Conversation, *, ended: bool) -> list[TokenIds]:
    """A conversation up to the end of its last answer, and with the token that ended it, as the template writes it."""
    answer = with_answer.messages[-1]
    whole = render(text, with_answer)
    if answer.tool_calls or not (answer.parts or answer.reasoning):
        stop = len(whole) if whole.header is None else whole.header
        ends = text.tokenizer.eos_ids
        end = next((at for at in range(stop - 1, -1, -1) if whole.ids[at] in ends), stop)
        return [whole.ids[: end + ended]]
    spoken = render(text, replace(with_answer, continue_final=True)).ids
    return [spoken, whole.ids[: len(spoken) + 1]] if ended and whole.ids[: len(spoken)] == spoken else [spoken]

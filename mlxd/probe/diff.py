"""Where two requests part: the first token that differs, and the message, field and text it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inference.conversation.render import render
from inference.conversation.text_model import TextModel
from inference.tokens import Prompt
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from mlxd.api.validate import validate
from mlxd.probe.oracle import common

CONTEXT_TOKENS = 12


@dataclass(frozen=True, slots=True)
class Side:
    """One request at the parting: `path` of the field ("" is the template's own text), `text` from there on."""

    tokens: int
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Parting:
    """`token` is the first that differs, None where the prompts are equal or one begins with the other."""

    token: int | None
    common_tokens: int
    before: str
    left: Side
    right: Side

    @property
    def message(self) -> int | None:
        """The index of the message the left side differs in."""
        path = self.left.path or self.right.path
        number = path.partition("[")[2].partition("]")[0] if path.startswith("messages[") else ""
        return int(number) if number.isdigit() else None


def part(text: TextModel, left: dict[str, Any], right: dict[str, Any]) -> Parting:
    """Compares what the model reads of two request bodies. Raises `InferenceError` for a body that is none."""
    prompts = [render(text, convert_chat(validate(ChatRequest, body))) for body in (left, right)]
    shared = common(prompts[0].ids, prompts[1].ids)
    differs = shared < min(map(len, prompts))
    before = _shown(text, prompts[0].ids[max(0, shared - CONTEXT_TOKENS) : shared])
    return Parting(shared if differs else None, shared, before, *(_side(text, one, shared) for one in prompts))


def _side(text: TextModel, prompt: Prompt, at: int) -> Side:
    span = prompt.source.at(at)
    return Side(len(prompt), span.path if span else "", _shown(text, prompt.ids[at : at + CONTEXT_TOKENS]))


def _shown(text: TextModel, ids: Sequence[int]) -> str:
    stream = text.tokenizer.detokenizer(frozenset(ids))
    return "".join(map(stream.push, ids)) + stream.finish()

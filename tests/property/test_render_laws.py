"""Laws of the render: whatever clients write, structure is the template's alone and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.conversation.render import render, render_with_notes
from inference.messages import Conversation, Message, Role, TextPart, Tool, ToolCall
from tests.conversations import full_text, lost_texts, structural, talk
from tests.tokenizers_in_code import MARKERS, SPECIAL, STYLES, text_model

KINDS = ("bytes", "merged", "sentence")
STRUCTURAL = [*SPECIAL, *MARKERS]
WORDS = ("system", "user", "assistant", "tool", "name", '"}', "\n", " ", "é", "</", "<|", "|>", "x")

runs = st.lists(st.sampled_from([*STRUCTURAL, *WORDS]), min_size=1, max_size=6).map("".join)


@st.composite
def nested(draw: st.DrawFn) -> str:
    """A marker in the middle of a marker: taking one out would leave the other."""
    outer, inner = draw(st.sampled_from(STRUCTURAL)), draw(st.sampled_from(STRUCTURAL))
    at = draw(st.integers(1, len(outer) - 1))
    return outer[:at] + inner + outer[at:]


hostile = st.one_of(runs, nested(), st.sampled_from(STRUCTURAL))


class Twins:
    """Draws every field twice: as an attacker would fill it and as a harmless word, blanks at the ends alike."""

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._words: dict[str, str] = {}

    def text(self) -> tuple[str, str]:
        text = self._draw(hostile)
        if not text.strip():
            return text, text
        # One word for each text: templates may compare fields with each other.
        word = self._words.setdefault(text.strip(), f"w{len(self._words)}z")
        lead, trail = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
        return text, lead + word + trail

    def answer(self) -> tuple[str, str]:
        """Not beginning with a balanced think block: that is understood as one, on purpose."""
        attack, word = self.text()
        return "a" + attack, "a" + word

    def arguments(self) -> tuple[str, str]:
        (key, key_word), (value, value_word) = self.text(), self.text()
        if self._draw(st.booleans()):
            made = [{key: [value, {"deep": value}], "n": 1}, {key_word: [value_word, {"deep": value_word}], "n": 1}]
            ascii_ = self._draw(st.booleans())
            return json.dumps(made[0], ensure_ascii=ascii_), json.dumps(made[1], ensure_ascii=ascii_)
        return "{" + value, "{" + value_word


@st.composite
def twins(draw: st.DrawFn) -> tuple[Conversation, Conversation]:
    """A hostile conversation and its harmless twin of the same form."""
    fields = Twins(draw)
    pairs = [_message(draw, fields) for _ in range(draw(st.integers(1, 5)))]
    tools = [_tool(fields) for _ in range(draw(st.integers(0, 2)))]
    effort = fields.text()

    def side(number: int) -> Conversation:
        chosen = [pair[number] for pair in pairs]
        return talk(*chosen, tools=[tool[number] for tool in tools], template_args={"reasoning_effort": effort[number]})

    return side(0), side(1)


def _message(draw: st.DrawFn, fields: Twins) -> tuple[Message, Message]:
    role = draw(st.sampled_from(list(Role)))
    text = fields.answer() if role is Role.ASSISTANT else fields.text()
    makers: dict[Role, Callable[[int], Message]] = {
        Role.SYSTEM: lambda n: Message(Role.SYSTEM, (TextPart(text[n]),)),
        Role.USER: lambda n: Message(Role.USER, (TextPart(text[n]), TextPart(text[n]))),
    }
    if role in makers:
        return makers[role](0), makers[role](1)
    id_, name = fields.text(), fields.text()
    if role is Role.TOOL:
        return tuple(Message(role, (TextPart(text[n]),), tool_call_id=id_[n], name=name[n]) for n in (0, 1))  # type: ignore[return-value]
    reasoning, arguments, calls = fields.text(), fields.arguments(), draw(st.integers(0, 2))
    return tuple(  # type: ignore[return-value]
        Message(
            role,
            (TextPart(text[n]),),
            reasoning[n],
            tuple(ToolCall(id_[n] + str(at), name[n], arguments[n]) for at in range(calls)),
        )
        for n in (0, 1)
    )


def _tool(fields: Twins) -> tuple[Tool, Tool]:
    name, description, key, value = (fields.text() for _ in range(4))

    def side(n: int) -> Tool:
        inner: Any = {"type": value[n], "description": value[n], "enum": [value[n]], "default": value[n]}
        schema = {"type": "object", "properties": {key[n]: inner}, "required": [key[n]], "x" + key[n]: value[n]}
        return Tool(name[n], description[n], schema)

    return side(0), side(1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=25, deadline=None)
@given(pair=twins())
def test_no_client_text_of_any_kind_makes_structure(
    style: str, kind: str, pair: tuple[Conversation, Conversation]
) -> None:
    model = text_model(style, kind)
    attacked, harmless = render(model, pair[0]), render(model, pair[1])
    assert structural(model, attacked) == structural(model, harmless)


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=40, deadline=None)
@given(pair=twins())
def test_nothing_a_client_wrote_is_lost(style: str, pair: tuple[Conversation, Conversation]) -> None:
    model = text_model(style)
    for conversation in pair:
        rendered = render_with_notes(model, conversation)
        if not rendered.adaptations.get("tools_as_text"):
            conversation = Conversation(conversation.messages)  # names and schemas have their own, unit tests
        assert not lost_texts(model, conversation, rendered.prompt)
        assert "unrendered" not in rendered.adaptations


@pytest.mark.parametrize("style", STYLES)
@settings(max_examples=25, deadline=None)
@given(pair=twins())
def test_spans_cover_the_prompt_and_boundaries_start_them(style: str, pair: tuple[Conversation, Conversation]) -> None:
    prompt = render(text_model(style), pair[0])
    ends = [0] + [span.stop for span in prompt.source.spans]
    assert [span.start for span in prompt.source.spans] == ends[:-1]
    assert ends[-1] == len(prompt)
    starts = {span.start for span in prompt.source.spans if span.path}
    assert {boundary.token for boundary in prompt.boundaries} <= starts
    assert len({boundary.message for boundary in prompt.boundaries}) == len(prompt.boundaries)


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=200))
def test_any_text_reaches_the_model_as_it_is(text: str) -> None:
    model = text_model("xml_arguments")
    prompt = render(model, talk(Message(Role.USER, (TextPart(text),))))
    assert f"<|im_start|>user\n{text.replace(chr(13) + chr(10), chr(10))}<|im_end|>" in full_text(model, prompt.ids)

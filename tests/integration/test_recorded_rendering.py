"""Every recorded chat request of real agent clients, rendered with every style of template: whole, and explained."""

from __future__ import annotations

from collections import Counter

import pytest

from inference.conversation.render import compose_conversation, render, render_with_notes
from inference.messages import Conversation
from mlxd.api.convert import convert_chat
from mlxd.api.schemas import ChatRequest
from tests.conversations import full_text, lost_texts
from tests.recorded import chat_requests, needs_recordings
from tests.tokenizers_in_code import STYLES, text_model

pytestmark = needs_recordings


def conversations() -> list[tuple[str, Conversation]]:
    """Pictures are left out: this test is about text."""
    made = []
    for name, body in chat_requests():
        for message in body["messages"]:
            if isinstance(message.get("content"), list):
                message["content"] = [part for part in message["content"] if part["type"] == "text"]
        made.append((name, convert_chat(ChatRequest.model_validate(body))))
    return made


@pytest.fixture(scope="module")
def traffic() -> list[tuple[str, Conversation]]:
    return conversations()


@pytest.mark.parametrize("style", STYLES)
def test_every_request_renders_whole(style: str, traffic: list[tuple[str, Conversation]]) -> None:
    model = text_model(style)
    notes: Counter[str] = Counter()
    for name, conversation in traffic:
        rendered = render_with_notes(model, conversation)
        assert not lost_texts(model, conversation, rendered.prompt), name
        assert rendered.prompt.ids
        notes.update(rendered.adaptations)
    print(style, len(traffic), "requests", dict(notes))
    assert not {"unrendered", "fallback", "unknown_escape"} & notes.keys()


@pytest.mark.parametrize("style", STYLES)
def test_boundaries_hold_every_message_that_says_something(style: str, traffic: list[tuple[str, Conversation]]) -> None:
    model = text_model(style)
    for name, conversation in traffic[::5]:
        prompt = render(model, conversation)
        at = {boundary.message: boundary.token for boundary in prompt.boundaries}
        for number, message in enumerate(conversation.messages):
            first = next((part.text.strip() for part in message.parts if part.text.strip()), "")
            if first and message.role.value in ("user", "system"):
                assert full_text(model, prompt.ids[at[number] : at[number] + 100]).lstrip().startswith(first[:40]), (
                    name,
                    number,
                )


def test_borders_differ_from_plain_tokenisation_only_a_little(traffic: list[tuple[str, Conversation]]) -> None:
    """Fields are tokenised apart, so ids at their borders can differ from those of the whole text; how many do."""
    for style in STYLES:
        model = text_model(style)
        ours = plain = 0
        for _, conversation in traffic[::5]:
            composed = compose_conversation(model, conversation)
            ours += len(render(model, conversation))
            plain += len(model.tokenizer.encode_template("".join(piece.text for piece in composed.pieces)))
        print(f"{style}: {ours} tokens, {plain} as one text, {(ours - plain) / plain:+.2%}")
        assert abs(ours - plain) < 0.05 * plain

"""Where each token of a prompt comes from, where messages begin, and where the answer will."""

from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import pytest

from inference.conversation.render import render
from inference.messages import Conversation, Role
from inference.tokens import Prompt
from tests.conversations import (
    AGENT_LOOP,
    READ,
    assistant,
    body_of,
    full_text,
    lookup,
    talk,
    user,
)
from tests.tokenizers_in_code import STYLES, text_model


@pytest.mark.parametrize("style", STYLES)
def test_spans_are_complete_and_point_to_what_they_hold(style: str) -> None:
    model = text_model(style)
    prompt = render(model, AGENT_LOOP)
    assert_sources_exact(style, AGENT_LOOP, prompt)
    paths = {span.path for span in prompt.source.spans}
    assert {"messages[1].content[0].text", "messages[1].content[1].text", "messages[8].content[0].text"} <= paths
    if model.traits.shape.tools:
        assert "tools[0].function.description" in paths
    if model.traits.shape.calls and model.traits.shape.arguments_mapping:
        assert "messages[4].tool_calls[1].function.arguments.range" not in paths
        assert "messages[4].tool_calls[0].function.arguments.path" in paths


def assert_sources_exact(style: str, conversation: Conversation, prompt: Prompt) -> None:
    """The oracle resolves each path in the request body and decodes the tokens by itself."""
    spans = prompt.source.spans
    assert spans[0].start == 0
    assert spans[-1].stop == len(prompt)
    assert all(one.stop == other.start and one.start < one.stop for one, other in pairwise(spans))
    body = body_of(conversation)
    for span in spans:
        if not span.path:
            continue
        shown = full_text(text_model(style), prompt.ids[span.start : span.stop])
        if re.fullmatch(r"tools\[\d+\].function", span.path):
            assert lookup(body, span.path)["name"] in shown
            continue
        if style == "id_names" and span.path.endswith("id"):
            assert shown.strip().startswith("functions.")
            continue
        if shown == span.path.rpartition(".")[2]:
            continue  # a key, found under its own name
        value = str(lookup(body, span.path)).replace("\r\n", "\n").strip()
        written = (value, value.replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t"))
        assert any(form in shown for form in written), (span.path, shown)
        assert len(shown.strip()) <= 2 * len(value) + 2


@pytest.mark.parametrize("style", STYLES)
def test_a_boundary_is_the_first_token_of_its_message(style: str) -> None:
    prompt = render(text_model(style), AGENT_LOOP)
    expected: dict[int, int] = {}
    for span in prompt.source.spans:
        if span.path.startswith("messages"):
            expected.setdefault(int(span.path[9 : span.path.index("]")]), span.start)
    found = {boundary.message: boundary.token for boundary in prompt.boundaries}
    assert found == expected
    assert set(found) == set(range(len(AGENT_LOOP.messages)))


@pytest.mark.parametrize("style", [style for style in STYLES if style != "instruct"])
def test_the_header_is_where_the_answer_begins(style: str) -> None:
    model = text_model(style)
    for conversation in (AGENT_LOOP, talk(*AGENT_LOOP.messages[:4], tools=(READ,)), talk(user("a"))):
        prompt = render(model, conversation)
        assert prompt.header is not None
        assert full_text(model, prompt.ids[prompt.header :]) == model.traits.header


def test_a_template_without_a_header_has_none() -> None:
    assert render(text_model("instruct"), talk(user("a"))).header is None


def test_the_header_holds_what_the_arguments_add_to_it() -> None:
    model = text_model()
    prompt = render(model, talk(user("a"), template_args={"enable_thinking": False}))
    assert prompt.header is not None
    header = full_text(model, prompt.ids[prompt.header :])
    assert header == "<|im_start|>assistant\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize("style", STYLES)
def test_a_continued_answer_ends_the_prompt(style: str) -> None:
    model = text_model(style)
    prompt = render(model, talk(user("Count."), assistant("One, two,"), continue_final=True))
    assert prompt.header is None
    assert full_text(model, prompt.ids).endswith("One, two,")


def test_there_is_nothing_to_continue_in_a_question() -> None:
    model = text_model()
    asked = talk(user("Count."))
    assert render(model, dataclasses.replace(asked, continue_final=True)).ids == render(model, asked).ids


def test_a_longer_conversation_begins_with_the_shorter_one() -> None:
    """What the cache lives on: up to the header, the prompt of one turn is a prefix of the next turn's."""
    for style in ("chatml", "header_trim", "alternating", "xml_arguments", "parts_only"):
        model = text_model(style)
        for size in range(2, len(AGENT_LOOP.messages)):
            if AGENT_LOOP.messages[size - 1].role is Role.ASSISTANT or AGENT_LOOP.messages[size].role is Role.TOOL:
                continue
            shorter = render(model, dataclasses.replace(AGENT_LOOP, messages=AGENT_LOOP.messages[:size]))
            longer = render(model, dataclasses.replace(AGENT_LOOP, messages=AGENT_LOOP.messages[: size + 1]))
            if style == "chatml" and size < 8:
                continue  # this template keeps reasoning only behind the last question
            assert longer.ids[: shorter.header] == shorter.ids[: shorter.header], (style, size)

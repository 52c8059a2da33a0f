"""Every recorded chat request of real agents is validated and converted; nothing of a recording is kept here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference.errors import ModelHasNoVision
from inference.messages import Conversation, Role
from mlxd.api.convert import convert_chat
from mlxd.api.formats import content_grammar
from mlxd.api.refusals import refuse_chat
from mlxd.api.schemas import ChatRequest
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate
from tests.recorded import REQUESTS, has_image, needs_recordings


def read(body: dict[str, Any]) -> Conversation:
    request = validate(ChatRequest, parse_object(json.dumps(body).encode()))
    refuse_chat(request)
    assert (content_grammar(request) is None) is ("response_format" not in body)
    return convert_chat(request)


@needs_recordings
def test_there_are_enough() -> None:
    assert len(REQUESTS) > 50 and len({name.split("/")[0] for name, _ in REQUESTS}) >= 6


@pytest.mark.parametrize(("name", "body"), REQUESTS, ids=[name for name, _ in REQUESTS])
def test_a_recorded_request(name: str, body: dict[str, Any]) -> None:
    try:
        conversation = read(body)
    except ModelHasNoVision:
        assert has_image(body)
        return
    assert not has_image(body)
    assert_nothing_lost(body, conversation)


def assert_nothing_lost(body: dict[str, Any], conversation: Conversation) -> None:
    assert len(conversation.messages) == len(body["messages"])
    for sent, kept in zip(body["messages"], conversation.messages, strict=True):
        content = sent.get("content") or ""
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        assert kept.text == text
        assert kept.role == {"developer": Role.SYSTEM}.get(sent["role"], sent["role"])
        assert kept.reasoning == (sent.get("reasoning_content") or sent.get("reasoning") or "")
        assert kept.tool_call_id == (sent.get("tool_call_id") or "")
        wanted = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in sent.get("tool_calls") or ()]
        assert [(call.id, call.name, call.arguments) for call in kept.tool_calls] == wanted
    functions = [tool["function"] for tool in body.get("tools") or ()]
    assert [(tool.name, tool.parameters) for tool in conversation.tools] == [
        (function["name"], function["parameters"]) for function in functions
    ]

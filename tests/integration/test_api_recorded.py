"""Every recorded chat request of real agents is validated and converted; nothing of a recording is kept here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from inference.errors import InferenceError, ModelHasNoVision, UnsupportedParameter
from inference.messages import Conversation, Role
from mlxd.api.convert import convert_chat
from mlxd.api.refusals import refuse_chat
from mlxd.api.schemas import ChatRequest
from mlxd.api.strict_json import parse_object
from mlxd.api.validate import validate

FOLDER = Path(os.environ.get("MLXD_TEST_TRAFFIC") or Path(__file__).parents[3] / "shared" / "traffic")


def recorded() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(FOLDER.glob("*/*.jsonl")):
        if file.name.endswith(".responses.jsonl"):
            continue
        for line in file.read_text().splitlines():
            request = json.loads(line)
            if request["method"] == "POST" and request["path"].partition("?")[0] == "/v1/chat/completions":
                yield f"{file.parent.name}/{file.stem}/{request['seq']}", request["body"]


REQUESTS = list(recorded()) if FOLDER.is_dir() else []


def read(body: dict[str, Any]) -> Conversation:
    request = validate(ChatRequest, parse_object(json.dumps(body).encode()))
    refuse_chat(request)
    return convert_chat(request)


def has_image(body: dict[str, Any]) -> bool:
    contents = [message.get("content") for message in body["messages"]]
    return any(part["type"] == "image_url" for content in contents if isinstance(content, list) for part in content)


@pytest.mark.skipif(not REQUESTS, reason="no recorded traffic: name its folder in MLXD_TEST_TRAFFIC")
def test_there_are_enough() -> None:
    assert len(REQUESTS) > 50 and len({name.split("/")[0] for name, _ in REQUESTS}) >= 6


@pytest.mark.parametrize(("name", "body"), REQUESTS, ids=[name for name, _ in REQUESTS])
def test_a_recorded_request(name: str, body: dict[str, Any]) -> None:
    try:
        conversation = read(body)
    except InferenceError as error:
        if isinstance(error, ModelHasNoVision):
            assert has_image(body)
        else:
            assert isinstance(error, UnsupportedParameter) and error.param == "response_format", error.message
            assert body["response_format"]["type"] != "text"
        return
    assert not has_image(body) and "response_format" not in body
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

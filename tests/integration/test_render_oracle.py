"""The rendered text against transformers' own rendering of the same messages, template by template."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from inference.conversation.render import compose_conversation
from inference.messages import Conversation, Role, Tool
from tests.conversations import READ, assistant, call, result, system, talk, user
from tests.tokenizers_in_code import fixed_date, template_source, text_model

PLAIN = {
    "padded": talk(system(" Be brief.\n"), user("\n hello \n\n"), assistant("hi  "), user("\tbye")),
    "quotes": talk(user("\"a\" 'b' \\ é \u2028 </tag> & {{ x }} {% y %}"), assistant('"'), user("'")),
    "tools": talk(system("s"), user("read"), tools=(READ, Tool("stop", 'Ends "it"'))),
    "calls": talk(
        user("read"),
        assistant(
            "", call("c1", '{"path": "a \\"b\\"\\n", "range": {"from": 1, "to": null}, "list": ["é", 1.5, true]}')
        ),
        result("c1", 'line "one"\n\ttwo\n'),
        user("and?"),
        tools=(READ,),
    ),
    "reasoning": talk(user("a"), assistant("b", reasoning="\nwhy\n"), user("c"), assistant("d", reasoning="so")),
}


def as_dicts(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages as any client of transformers would give them."""
    made = []
    for message in conversation.messages:
        one: dict[str, Any] = {"role": message.role.value, "content": message.text}
        if message.reasoning:
            one["reasoning_content"] = message.reasoning
        if message.tool_calls:
            functions = [{"name": each.name, "arguments": json.loads(each.arguments)} for each in message.tool_calls]
            one["tool_calls"] = [
                {"type": "function", "id": each.id, "function": function}
                for each, function in zip(message.tool_calls, functions, strict=True)
            ]
        if message.role is Role.TOOL:
            one |= {"tool_call_id": message.tool_call_id, "name": "read_file"}
        made.append(one)
    return made


def tool_dicts(conversation: Conversation) -> list[dict[str, Any]] | None:
    made = []
    for tool in conversation.tools:
        described = {"description": tool.description} if tool.description else {}
        function = {"name": tool.name, **described, "parameters": tool.parameters}
        made.append({"type": "function", "function": function})
    return made or None


@pytest.mark.parametrize("style", ["chatml", "strict_system", "xml_arguments", "header_trim", "channels"])
@pytest.mark.parametrize("kind", PLAIN)
def test_the_text_is_what_transformers_renders(style: str, kind: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    model, conversation = text_model(style), PLAIN[kind]
    composed = compose_conversation(model, conversation)
    if composed.counts.total():
        pytest.skip(f"adapted for this template: {dict(composed.counts)}")
    source = re.sub(r"strftime_now\(('.*?')\)", lambda found: fixed_date(found[1]), template_source(style))
    (expected,), _ = utils.render_jinja_template(
        [as_dicts(conversation)],
        tools=tool_dicts(conversation),
        chat_template=source,
        add_generation_prompt=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert "".join(piece.text for piece in composed.pieces) == expected

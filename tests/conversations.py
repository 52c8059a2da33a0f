"""Small conversations for renderer tests, and oracles that read a prompt without the renderer's own bookkeeping."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from inference.conversation.text_model import TextModel
from inference.engine.tokenizer import JsonTokenizer
from inference.messages import Conversation, Message, Role, TextPart, Tool, ToolCall
from inference.tokens import Prompt

SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "Where the file lies"},
        "mode": {"type": "string", "enum": ["text", "raw bytes"], "default": "text"},
        "range": {"type": "object", "properties": {"from": {"type": "integer"}, "to": {"type": "integer"}}},
    },
    "required": ["path"],
}
READ = Tool("read_file", 'Reads a "file"\nfrom the disk', SCHEMA)
STOP = Tool("stop")


def system(text: str) -> Message:
    return Message(Role.SYSTEM, (TextPart(text),))


def user(*texts: str) -> Message:
    return Message(Role.USER, tuple(TextPart(text) for text in texts))


def assistant(text: str = "", *calls: ToolCall, reasoning: str = "") -> Message:
    return Message(Role.ASSISTANT, (TextPart(text),) if text else (), reasoning, calls)


def result(call_id: str, text: str) -> Message:
    return Message(Role.TOOL, (TextPart(text),), tool_call_id=call_id)


def call(call_id: str, arguments: str = '{"path": "src/main.py"}', name: str = "read_file") -> ToolCall:
    return ToolCall(call_id, name, arguments)


def talk(*messages: Message, tools: Sequence[Tool] = (), **rest: Any) -> Conversation:
    """A conversation whose paths are those of an OpenAI body with list contents."""
    placed = tuple(_placed(message, f"messages[{at}]") for at, message in enumerate(messages))
    return Conversation(placed, tuple(tools), **rest)


def _placed(message: Message, path: str) -> Message:
    parts = tuple(TextPart(part.text, f"{path}.content[{at}].text") for at, part in enumerate(message.parts))
    return Message(message.role, parts, message.reasoning, message.tool_calls, message.tool_call_id, message.name, path)


AGENT_LOOP = talk(
    system("You are a careful agent."),
    user("Please read ", "src/main.py now"),
    assistant("\n\nLet me look. \n", call("call_first_01"), reasoning="The user wants a file."),
    result("call_first_01", 'def main():\n\treturn "ok"\n'),
    assistant("", call("call_a", '{"path": "a é", "mode": "raw bytes"}'), call("call_b", '{"range": {"from": 1}}')),
    result("call_a", "alpha result"),
    result("call_b", "beta result"),
    assistant("It returns ok.", reasoning="done"),
    user("Thanks! What else?"),
    tools=(READ, STOP),
)
"""What agents send: reasoning, one and two calls, results, text beside a call."""


def full_text(model: TextModel, ids: Sequence[int]) -> str:
    """The text of ids with every marker shown."""
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, JsonTokenizer)
    stream = tokenizer.detokenizer(tokenizer.structural_ids)
    return "".join(map(stream.push, ids)) + stream.finish()


def structural(model: TextModel, prompt: Prompt) -> list[int]:
    """The structural ids of a prompt, in order."""
    tokenizer = model.tokenizer
    assert isinstance(tokenizer, JsonTokenizer)
    return [number for number in prompt.ids if number in tokenizer.structural_ids]


def body_of(conversation: Conversation) -> dict[str, Any]:
    """The OpenAI body that a conversation of `talk` came from: what the paths of a source map point into."""
    return {
        "messages": [
            {
                "content": [{"text": part.text} for part in message.parts],
                "reasoning_content": message.reasoning,
                "tool_call_id": message.tool_call_id,
                "name": message.name,
                "tool_calls": [
                    {"id": one.id, "function": {"name": one.name, "arguments": one.arguments}}
                    for one in message.tool_calls
                ],
            }
            for message in conversation.messages
        ],
        "tools": [
            {"function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters}}
            for tool in conversation.tools
        ],
        "chat_template_kwargs": dict(conversation.template_args),
    }


def lookup(body: Any, path: str) -> Any:
    """The value at a path like `messages[3].content[0].text`; behind `arguments` the JSON inside the text."""
    value = body
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", path):
        if isinstance(value, str):
            value = json.loads(value)
        value = value[int(index)] if index else value[name]
    return value


def spoken(conversation: Conversation) -> Iterator[str]:
    """Every text outside of calls that the model must be able to read."""
    for message in conversation.messages:
        yield from (part.text for part in message.parts)
    for tool in conversation.tools:
        yield from (tool.name, tool.description)


def _leaves(arguments: str) -> Iterator[str]:
    """The texts inside the JSON of a call, keys included; what is no JSON is one text."""
    try:
        stack = [json.loads(arguments)]
    except (ValueError, RecursionError):
        stack = [arguments]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            stack += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            stack += value
        elif isinstance(value, str):
            yield value


def lost_texts(model: TextModel, conversation: Conversation, prompt: Prompt) -> list[str]:
    """Texts of the conversation that are not in the prompt as they are, nor as JSON, nor as JSON inside JSON.

    Arguments may stand there as the client serialised them, or value by value.
    """
    shown = full_text(model, prompt.ids)
    calls = [one.arguments for message in conversation.messages for one in message.tool_calls]
    inside = [leaf for arguments in calls if arguments.strip() not in shown for leaf in _leaves(arguments)]
    return [text for text in [*spoken(conversation), *inside] if not any(form in shown for form in _forms(text))]


def _forms(text: str) -> Iterator[str]:
    plain = text.replace("\r\n", "\n").strip()
    for _ in range(3):
        yield plain
        yield json.dumps(plain)[1:-1]
        plain = json.dumps(plain, ensure_ascii=False)[1:-1]

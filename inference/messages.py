"""The one internal message type. Every API dialect is converted into it, and only this is ever rendered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class TextPart:
    """`path` is where the text stood in the request body, e.g. `messages[3].content[0].text`."""

    text: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made. `arguments` is the text exactly as the client sent it; it need not be valid JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    `parts` empty means no content (null, "" or absent: equal in meaning). `tool_call_id` and `name` belong to
    `Role.TOOL`. `path` is the place in the request body, e.g. `messages[3]`.
    """

    role: Role
    parts: tuple[TextPart, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    name: str = ""
    path: str = ""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call. `parameters` is its JSON schema, `strict` as the client sent it.

    `path` is the object in the request that holds name and description, e.g. `tools[2].function`.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What is rendered into a prompt.

    `template_args` go to the chat template as they are (e.g. `enable_thinking`): scalars only, from an allow-list.
    `continue_final` asks that a last assistant message be continued rather than answered.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    template_args: Mapping[str, bool | int | float | str] = field(default_factory=dict)
    continue_final: bool = False

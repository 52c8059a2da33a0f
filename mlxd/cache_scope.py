"""With whom a request shares what was computed, and whether it may push out what others left."""

from __future__ import annotations

from typing import Final

from inference.conversation.text_model import TextModel
from inference.messages import Conversation, Role
from inference.params import CacheScope
from inference.tokens import Prompt

ONE_SHOT_TOKENS: Final = 2048
"""A longer prompt is worth its memory whatever it is for."""
ONE_SHOT_CHARS: Final = 4 * ONE_SHOT_TOKENS
"""About as much, before it is known what a conversation is in tokens."""


def cache_scope(
    text: TextModel, conversation: Conversation | None, prompt: Prompt, session: str, salt: bytes
) -> CacheScope:
    """The scope of a request of `session` ("" when nobody knows) under the client's `salt`."""
    return CacheScope(salt, text.digest, session, one_shot=_is_one_shot(conversation, len(prompt)))


def is_brief(conversation: Conversation | None) -> bool:
    """A title, a commit message, a check: short, without tools, nothing answered yet. A second turn makes it more."""
    if conversation is None or not _is_question(conversation):
        return False
    return sum(len(part.text) for message in conversation.messages for part in message.parts) <= ONE_SHOT_CHARS


def _is_one_shot(conversation: Conversation | None, prompt_tokens: int) -> bool:
    return prompt_tokens <= ONE_SHOT_TOKENS and conversation is not None and _is_question(conversation)


def _is_question(conversation: Conversation) -> bool:
    return not conversation.tools and all(message.role is not Role.ASSISTANT for message in conversation.messages)

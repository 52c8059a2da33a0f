"""How an answer is told apart and steered: where its thoughts stand, which tokens its readers see, what guides it."""

from __future__ import annotations

from collections.abc import Sequence

from inference.conversation.text_model import TextModel
from inference.conversation.thinking import left_open, likely_tags, silent_ids, think_tags, thought_span
from inference.conversation.turns import ThinkTags
from inference.ports import CompiledGrammar, Guide, ThoughtSpan, Tokenizer
from inference.scheduler import Thinking
from inference.streaming.dialects.choice import markers, message_format
from inference.streaming.splitter import ReasoningMode
from inference.tokens import Prompt


def tags_of(text: TextModel, reasoning: ReasoningMode) -> ThinkTags | None:
    """The markers a model thinks between, whether or not they are shown as text."""
    return likely_tags(text) if reasoning is ReasoningMode.PREFILLED else think_tags(text)


def thinking_of(text: TextModel, prompt: Prompt, reasoning: ReasoningMode) -> Thinking | None:
    """How the answer to a conversation is split; None where its markers, if any, stay text.

    A prompt that has closed its thought (thinking switched off) is never answered mid-thought.
    """
    told = reasoning is ReasoningMode.PREFILLED
    tags = tags_of(text, reasoning)
    if tags is None or reasoning is ReasoningMode.OFF:
        return None
    inside = left_open(text.tokenizer, prompt, tags)
    inside = told if inside is None else inside
    mode = ReasoningMode.PREFILLED if inside else ReasoningMode.AUTO
    return Thinking(*tags, mode, silent_ids(text.tokenizer, tags))


def limit_of(
    text: TextModel, prompt: Prompt, reasoning: ReasoningMode, budget_tokens: int | None, *, calls: bool
) -> ThoughtSpan | None:
    """Where the thought of an answer stands among its tokens, and its limit; None where there can be none."""
    prefilled = reasoning is ReasoningMode.PREFILLED
    tags = tags_of(text, reasoning)
    return thought_span(text, prompt, tags, budget_tokens=budget_tokens, prefilled=prefilled, calls=calls)


def shown_ids(tokenizer: Tokenizer, dialects: Sequence[str], *, calls: bool) -> frozenset[int]:
    """Special tokens that the readers of an answer must see."""
    wanted = calls or message_format(dialects) is not None
    return silent_ids(tokenizer, markers(dialects)) if wanted else frozenset()


def guide_of(grammar: CompiledGrammar | None, thought: ThoughtSpan | None, *, split: bool) -> Guide | None:
    """What steers an answer. `split`: thoughts come before the text that a grammar is for.

    Where they stay text, or are messages that the grammar knows of, it holds from the first token.
    """
    if grammar is not None:
        return Guide(grammar, thought if split else None)
    return None if thought is None or thought.budget_tokens is None else Guide(thought=thought)

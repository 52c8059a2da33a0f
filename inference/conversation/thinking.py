"""Where a model's thoughts stand: its think markers, whether a prompt ends in the middle of a thought, how one ends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from inference.conversation.probe import FINAL_CHANNEL, THINK_TAGS
from inference.conversation.spoken import RawTurn
from inference.conversation.text_model import TextModel
from inference.conversation.turns import ThinkTags
from inference.messages import Conversation
from inference.ports import ThoughtSpan, Tokenizer
from inference.tokens import Prompt, SourceMap, Span, TokenIds

_THOUGHT_CHANNEL = "<|channel|>analysis<|message|>"
_END_OF_THOUGHT = "<|end|><|start|>assistant"


def think_tags(text: TextModel) -> ThinkTags | None:
    """The markers around a model's thoughts: those its template takes apart or opens its turns with.

    None: what looks like a marker in its answers is text. A token in the vocabulary is no sign: coding models share
    theirs with models that think, and write these tags into files.
    """
    header = text.traits.header.rstrip()
    return text.traits.think or next((tags for tags in THINK_TAGS if header.endswith(tags)), None)


def likely_tags(text: TextModel) -> ThinkTags:
    """The markers of a model of which it is only known that it thinks: tokens of its own before the usual ones."""
    tokens = (tags for tags in THINK_TAGS if all(len(text.tokenizer.encode_template(tag)) == 1 for tag in tags))
    return think_tags(text) or next(tokens, THINK_TAGS[0])


def keeps_thoughts(text: TextModel, conversation: Conversation) -> bool:
    """Whether the template goes on showing the thoughts of answers behind which the user has spoken again."""
    control = text.traits.control
    asked = control.keeper is not None and conversation.template_args.get(control.keeper[0]) == control.keeper[1]
    return control.keeps or asked


def thoughts_move(text: TextModel, conversation: Conversation, spoken: Iterable[RawTurn] = ()) -> bool:
    """Whether the template may show other thoughts of past answers when the user's last message is another one.

    `spoken` are answers of the conversation as the model spoke them.
    """
    if keeps_thoughts(text, conversation):
        return False
    return any(message.reasoning for message in conversation.messages) or any(raw.thinks for raw in spoken)


def silent_ids(tokenizer: Tokenizer, tags: Iterable[str]) -> frozenset[int]:
    """Special tokens that markers are made of, which no text shows unless it is asked for."""
    return frozenset(one for tag in tags for one in tokenizer.encode_template(tag) if not tokenizer.decode((one,)))


def left_open(tokenizer: Tokenizer, prompt: Prompt, tags: ThinkTags) -> bool | None:
    """Whether the thought that the prompt's end opened is still open; None when the end knows of no thought."""
    if prompt.header is None:  # it continues an answer, in which client text cannot be taken for a marker's id
        start = prompt.boundaries[-2].token if len(prompt.boundaries) > 1 else 0
        opener, closer = (tokenizer.encode_template(tag) for tag in tags)
        return _last(prompt.ids[start:], opener, closer)
    stream = tokenizer.detokenizer(silent_ids(tokenizer, tags))
    text = "".join(map(stream.push, prompt.ids[prompt.header :])) + stream.finish()
    opened, closed = map(text.rfind, tags)
    return None if opened == closed else opened > closed


def closing_of(text: TextModel, tags: ThinkTags) -> str:
    """How the model's template ends a thought; where it shows none, as most models write it."""
    closing = text.traits.control.closing
    return closing if tags[1] in closing else f"\n{tags[1]}\n\n"


def close_thought(text: TextModel, prompt: Prompt, tags: ThinkTags) -> Prompt:
    """The prompt with the thought that its header left open closed again: the model begins with the answer.

    For templates that open every turn with a thought and know no way to switch it off. The ids are those of the text
    as a whole, because tokenizers join the line feeds on both sides of an empty thought.
    """
    opener = text.tokenizer.encode_template(tags[0])
    at = _rfind(prompt.ids, opener, prompt.header or 0)
    kept = len(prompt) if at is None else at + len(opener)
    tail = text.tokenizer.decode(prompt.ids[kept:])
    ids = prompt.ids[:kept] + text.tokenizer.encode_template(tail + closing_of(text, tags))
    spans = [replace(span, stop=min(span.stop, kept)) for span in prompt.source.spans if span.start < kept]
    if spans and not spans[-1].path:
        spans[-1] = replace(spans[-1], stop=len(ids))
    else:
        spans.append(Span(kept, len(ids), ""))
    opener_tokens = prompt.opener_tokens and prompt.opener_tokens + len(ids) - len(prompt)
    return replace(prompt, ids=ids, source=SourceMap(tuple(spans)), opener_tokens=opener_tokens)


def quieted(text: TextModel, prompt: Prompt, tags: ThinkTags | None) -> Prompt:
    """The prompt of an answer without thoughts: as it is, unless its header leaves the model in the middle of one."""
    if tags is None or prompt.header is None or not left_open(text.tokenizer, prompt, tags):
        return prompt
    return close_thought(text, prompt, tags)


def thought_span(
    text: TextModel,
    prompt: Prompt,
    tags: ThinkTags | None,
    *,
    budget_tokens: int | None,
    prefilled: bool = False,
    calls: bool = False,
) -> ThoughtSpan | None:
    """Where thoughts stand in the ids of the answer; None when the prompt has closed the only one there is to be.

    `prefilled`: answers begin mid-thought although the prompt does not show it. `calls`: tools may be called.
    """
    if text.traits.channels:
        return _channel_span(text.tokenizer, None if calls else budget_tokens) if prompt.header is not None else None
    inside = left_open(text.tokenizer, prompt, tags) if tags else False
    if tags is None or inside is False:
        return None
    opener, closer, closing = map(text.tokenizer.encode_template, (*tags, closing_of(text, tags)))
    return ThoughtSpan(opener, closer, prefilled if inside is None else inside, budget_tokens, closing)


def _channel_span(tokenizer: Tokenizer, budget_tokens: int | None) -> ThoughtSpan:
    """Until the final channel begins, all of an answer is thought. So are calls, which must not be cut: where tools are
    offered there is no limit."""
    final = tokenizer.encode_template(FINAL_CHANNEL)
    if budget_tokens == 0:
        return ThoughtSpan((), final, True, 0, final)
    begun = tokenizer.encode_template(_THOUGHT_CHANNEL)
    limit = None if budget_tokens is None else budget_tokens + len(begun)
    return ThoughtSpan((), final, True, limit, tokenizer.encode_template(_END_OF_THOUGHT) + final)


def _rfind(ids: TokenIds, wanted: TokenIds, start: int) -> int | None:
    """Where `wanted` last begins at or behind `start`."""
    ends = range(len(ids) - len(wanted), start - 1, -1)
    return next((at for at in ends if ids[at : at + len(wanted)] == wanted), None)


def _last(ids: TokenIds, opener: TokenIds, closer: TokenIds) -> bool | None:
    """Whether the last marker is an opener. Markers of several ids could be anybody's text: they tell nothing."""
    return next(((token,) == opener for token in reversed(ids) if (token,) in (opener, closer)), None)

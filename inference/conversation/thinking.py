"""Where a model's thoughts stand: its think markers, and whether a prompt ends in the middle of a thought."""

from __future__ import annotations

from collections.abc import Iterable

from inference.conversation.probe import THINK_TAGS
from inference.conversation.text_model import TextModel
from inference.conversation.turns import ThinkTags
from inference.ports import Tokenizer
from inference.tokens import Prompt, TokenIds


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


def silent_ids(tokenizer: Tokenizer, tags: Iterable[str]) -> frozenset[int]:
    """Ids of markers that are special tokens, which no text shows unless it is asked for."""
    ids = [tokenizer.encode_template(tag) for tag in tags]
    return frozenset(one[0] for one in ids if len(one) == 1 and not tokenizer.decode(one))


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


def _last(ids: TokenIds, opener: TokenIds, closer: TokenIds) -> bool | None:
    """Whether the last marker is an opener. Markers of several ids could be anybody's text: they tell nothing."""
    return next(((token,) == opener for token in reversed(ids) if (token,) in (opener, closer)), None)

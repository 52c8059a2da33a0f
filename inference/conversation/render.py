"""The one render: a conversation and a model's text side in, the ids the model reads out, with exact sources.

The template is rendered once, with a sentinel for every client string. Its own text is tokenised with the model's
markers recognised, client text apart from it with markers impossible. So the first token of a message, the source of
every token and the start of the generation header are known from the construction, not found by searching the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from inference.conversation.compose import Composed, Wish, compose
from inference.conversation.sentinels import Piece
from inference.conversation.splice import dummies, splice
from inference.conversation.spoken import RawTurn
from inference.conversation.text_model import TextModel
from inference.conversation.turns import Turn, turns_of
from inference.errors import InvalidParameter, PromptTooLong, TemplateFailed
from inference.messages import Conversation, Role
from inference.ports import ChatTemplate, Tokenizer
from inference.tokens import Boundary, Prompt, SourceMap, Span, TokenIds

NOTHING_RAW: Mapping[int, RawTurn] = MappingProxyType({})
_SAMPLES = 16
_SAMPLE_CHARS = 2048
_SURELY_CHARS_PER_TOKEN = 6
"""Prompts below this are counted exactly; agents' prompts have 3 to 4.5 characters per token."""


@runtime_checkable
class _ReadsAhead(Protocol):
    """A tokenizer that is faster with many texts at once: 500 KB in 200 of them take as long as the cores allow."""

    def read_ahead(self, texts: Iterable[str]) -> None: ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt and what had to be said differently for it, by kind and number (`fallback`: the template refused the
    probed shape; `unrendered`: fields the template shows in no shape)."""

    prompt: Prompt
    adaptations: Mapping[str, int]


def render(text: TextModel, conversation: Conversation, raw: Mapping[int, RawTurn] = NOTHING_RAW) -> Prompt:
    """The prompt of a conversation. Raises `TemplateFailed` and `PromptTooLong` (only when it is so by far).

    `raw` has the ids of assistant messages, by number, that are to be read as the model spoke them.
    """
    return render_with_notes(text, conversation, raw).prompt


def render_with_notes(
    text: TextModel, conversation: Conversation, raw: Mapping[int, RawTurn] = NOTHING_RAW
) -> Rendered:
    """As `render`, with a record of every adaptation."""
    composed = compose_conversation(text, conversation, raw)
    refuse_far_too_long(text, [piece.text for piece in composed.pieces])
    prompt = assemble(text.tokenizer, composed, text.traits.header)
    users = [at for at, message in enumerate(conversation.messages) if message.role is Role.USER]
    prompt = replace(prompt, opener_tokens=_opener_tokens(text, prompt), last_user_message=users[-1] if users else None)
    return Rendered(prompt, {kind: count for kind, count in composed.counts.items() if count})


def _opener_tokens(text: TextModel, prompt: Prompt) -> int:
    """How many tokens at the end of the generation header open a thought, or open and close an empty one."""
    if text.traits.think is None or prompt.header is None:
        return 0
    header, opener = prompt.ids[prompt.header :], text.tokenizer.encode_template(text.traits.think[0])
    starts = (at for at in range(len(header)) if header[at : at + len(opener)] == opener)
    return next((len(header) - at for at in starts), 0)


def compose_conversation(
    text: TextModel, conversation: Conversation, raw: Mapping[int, RawTurn] = NOTHING_RAW
) -> Composed:
    """The rendered text in pieces that know their source, before any of it is tokenised.

    Turns of `raw` that have no place of their own in the render are rendered as they were sent, and counted.
    """
    if text.template is None:
        raise TemplateFailed("This model has no chat template: it serves /v1/completions only.", param="model")
    counts: Counter[str] = Counter()
    turns = turns_of(conversation, text.traits.think, counts)
    open_end = conversation.continue_final and _ends_open(turns)
    wish = Wish(tuple(turns), conversation.tools, conversation.template_args, open_end)
    wanted = {number: one for number, one in raw.items() if not (open_end and number == turns[-1].message)}
    composed, spliced = _compose(text, wish, text.template, wanted)
    counts |= {"spliced": spliced, "unspliced": len(wanted) - spliced}
    composed.counts.update(counts)
    return composed


def _compose(text: TextModel, wish: Wish, template: ChatTemplate, raw: Mapping[int, RawTurn]) -> tuple[Composed, int]:
    """The render with as many turns of `raw` spliced as have a place, and how many these are."""
    shape, markers, seams = text.traits.shape, text.traits.markers, text.traits.seams
    while raw and seams is not None:
        try:
            composed = compose(template, replace(wish, turns=tuple(dummies(wish.turns, raw))), shape, markers)
        except TemplateFailed:
            break
        pieces, failed = splice(composed.pieces, wish.turns, raw, seams)
        if not failed:
            return replace(composed, pieces=pieces), len(raw)
        raw = {number: one for number, one in raw.items() if number not in failed}
    return compose(template, wish, shape, markers), 0


def _ends_open(turns: Sequence[Turn]) -> bool:
    """There is a last answer with something in it that can be continued."""
    return bool(turns) and turns[-1].role is Role.ASSISTANT and (turns[-1].has_text or bool(turns[-1].reasoning))


def render_raw(text: TextModel, prompt: str | Sequence[int]) -> Prompt:
    """The prompt of a raw completion: text as the model's tokenizer begins a text, or ids as they are.

    Raises `InvalidParameter` for ids outside the vocabulary.
    """
    if isinstance(prompt, str):
        refuse_far_too_long(text, [prompt])
        ids = text.tokenizer.encode_raw(prompt)
    else:
        ids = tuple(prompt)
        if any(not 0 <= one < text.tokenizer.vocab_size for one in ids):
            raise InvalidParameter("A token id of the prompt is outside the model's vocabulary.", param="prompt")
    spans = (Span(0, len(ids), "prompt"),) if ids else ()
    return Prompt(ids, source=SourceMap(spans))


# --- pieces to ids ----------------------------------------------------------------------------------------------


def assemble(tokenizer: Tokenizer, composed: Composed, header: str) -> Prompt:
    """The ids of the pieces one after the other, with spans, message boundaries and the start of the header."""
    ids: list[int] = []
    spans: list[Span] = []
    starts: dict[int, int] = {}
    spaced = _spaced(composed.pieces, header)
    if isinstance(tokenizer, _ReadsAhead):
        tokenizer.read_ahead(text for text, piece in spaced if piece.source and piece.ids is None)
    for text, piece in spaced:
        start = len(ids)
        if piece.ids is not None:
            ids += piece.ids
        else:
            ids += tokenizer.encode_field(text) if piece.source else tokenizer.encode_template(text)
        if len(ids) == start:
            continue
        source = piece.source
        spans.append(Span(start, len(ids), source.path if source else ""))
        if source is not None and source.message >= 0:
            starts.setdefault(source.message, start)
    boundaries = tuple(Boundary(message, token) for message, token in sorted(starts.items(), key=lambda one: one[1]))
    return Prompt(tuple(ids), boundaries, SourceMap(_joined(spans)), _header_start(tokenizer, composed, len(ids)))


def _spaced(pieces: Sequence[Piece], header: str) -> list[tuple[str, Piece]]:
    """The texts to tokenise. Spaces that the template writes before a field go with the field: tokenizers join a
    space to the word behind it (`Question: ` + `why` is read as `Question:` ` why`). The exception is a space that
    ends the generation header: there the model itself began to write, and an echo must continue those very ids. Ids
    take no spaces either."""
    spaced: list[tuple[str, Piece]] = []
    for at, piece in enumerate(pieces):
        text = piece.text
        if _borrows(piece) and at and pieces[at - 1].source is None:
            text = _lent_spaces(pieces[at - 1].text, header) + text
        elif piece.source is None and at + 1 < len(pieces) and _borrows(pieces[at + 1]):
            text = text[: len(text) - len(_lent_spaces(text, header))]
        if text or piece.ids:
            spaced.append((text, piece))
    return spaced


def _borrows(piece: Piece) -> bool:
    return piece.source is not None and piece.ids is None


def _lent_spaces(text: str, header: str) -> str:
    if header and text.endswith(header):
        return ""
    return text[len(text.rstrip(" ")) :]


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """Neighbouring spans of one path as one."""
    result: list[Span] = []
    for span in spans:
        if result and result[-1].path == span.path:
            result[-1] = Span(result[-1].start, span.stop, span.path)
        else:
            result.append(span)
    return tuple(result)


def _header_start(tokenizer: Tokenizer, composed: Composed, total: int) -> int | None:
    """The index of the token that holds the first character of the header."""
    if not composed.tail:
        return None
    last = composed.pieces[-1].text
    whole = tokenizer.encode_template(last)
    before = tokenizer.encode_template(last[: len(last) - len(composed.tail)])
    return total - len(whole) + _common(whole, before)


def _common(one: TokenIds, other: TokenIds) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


# --- too long ---------------------------------------------------------------------------------------------------


def refuse_far_too_long(text: TextModel, texts: Sequence[str]) -> None:
    """Raises `PromptTooLong` from a sample when the text cannot fit by far: ten megabytes are refused in
    milliseconds instead of being tokenised for seconds."""
    chars = sum(map(len, texts))
    if chars <= _SURELY_CHARS_PER_TOKEN * text.context_tokens:
        return
    samples = _samples(texts, chars)
    sampled = sum(len(text.tokenizer.encode_field(sample)) for sample in samples)
    estimate = int(sampled * chars / max(1, sum(map(len, samples))))
    if estimate > 1.5 * text.context_tokens:
        raise PromptTooLong(estimate, text.context_tokens, estimated=True)


def _samples(texts: Sequence[str], chars: int) -> list[str]:
    """Slices at even distances of the whole text."""
    step = max(1, chars // _SAMPLES)
    samples: list[str] = []
    offset = wanted = 0
    for text in texts:
        while wanted < offset + len(text):
            samples.append(text[wanted - offset : wanted - offset + _SAMPLE_CHARS])
            wanted += step
        offset += len(text)
    return samples

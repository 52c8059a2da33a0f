"""Dialogues to token ids, and ids to padded batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import mlx.core as mx
from transformers import PreTrainedTokenizerBase

from inference.engine.demo import sums
from inference.engine.demo.dialogues import Dialogue, draw_dialogue

POOL_DIALOGUES = 256
LENGTH_STEP = 16  # lengths are rounded up, so that few shapes are compiled
ANSWER_STEP = 64


@dataclass(frozen=True, slots=True)
class Example:
    """Ids of one dialogue; `learned[i]` says that ids[i] is to be predicted."""

    ids: list[int]
    learned: list[bool]


@dataclass(slots=True)
class Lesson:
    """What is practised now: the longest dialogue, the shares of plain copying and of arithmetic facts."""

    longest_tokens: int
    copying: float
    facts: float


@dataclass(frozen=True, slots=True)
class Batch:
    """`inputs` is (rows, length). The learned targets are flat: where in rows * length, which id, weight 0 or 1."""

    inputs: mx.array
    where: mx.array
    targets: mx.array
    weights: mx.array


def render(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue, upto: int | None = None) -> str:
    """The text of a dialogue; with `upto`, of its first messages and the header of an answer."""
    messages = dialogue.messages if upto is None else dialogue.messages[:upto]
    text = tokenizer.apply_chat_template(
        messages,
        tools=dialogue.tools,
        tokenize=False,
        add_generation_prompt=upto is not None,
        enable_thinking=dialogue.thinking,
    )
    assert isinstance(text, str)
    return text


def encode(tokenizer: PreTrainedTokenizerBase, dialogue: Dialogue) -> Example:
    """Learned are the assistant's messages after the last user query, from the header's end through <|im_end|>."""
    roles = [message["role"] for message in dialogue.messages]
    last_query = len(roles) - 1 - roles[::-1].index("user")
    text, end = render(tokenizer, dialogue), "<|im_end|>"
    ids: list[int] = []
    learned: list[bool] = []

    def add(piece: str, is_learned: bool) -> None:
        piece_ids = tokenizer.encode(piece, add_special_tokens=False)
        ids.extend(piece_ids)
        learned.extend([is_learned] * len(piece_ids))

    done = 0
    for index in range(last_query + 1, len(roles)):
        if roles[index] == "assistant":
            start = len(render(tokenizer, dialogue, upto=index))
            stop = text.index(end, start) + len(end)
            add(text[done:start], False)
            add(text[start:stop], True)
            done = stop
    return Example(ids, learned)


def copying_example(tokenizer: PreTrainedTokenizerBase, rng: Random) -> Example:
    """Random ids from the user, the same from the assistant: nothing but attention to the prompt can learn it."""
    copied = [rng.randrange(256, 2000) for _ in range(rng.randint(3, 40))]
    head = tokenizer.encode("<|im_start|>user\n", add_special_tokens=False)
    turn = tokenizer.encode("<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False)
    ids = [*head, *copied, *turn, *copied, turn[0]]
    return Example(ids, [index >= len(head) + len(copied) + len(turn) for index in range(len(ids))])


def facts_example(tokenizer: PreTrainedTokenizerBase, rng: Random) -> Example:
    """A row of sums of digits inside a thought; learned are the results alone."""
    text = "<|im_start|>assistant\n<think>\n" + ", ".join(sums.drawn_facts(rng, 14))
    ids = tokenizer.encode(text, add_special_tokens=False)
    equals, digits = tokenizer.convert_tokens_to_ids("="), set(tokenizer.convert_tokens_to_ids(list("0123456789")))
    learned = [False]
    for before, now in pairwise(ids):
        learned.append(now in digits and (learned[-1] or before == equals))
    return Example(ids, learned)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def make_batch(examples: list[Example]) -> Batch:
    """Pad on the right: with a causal mask no real token sees the padding."""
    length = _round_up(max(len(example.ids) for example in examples) - 1, LENGTH_STEP)
    inputs = [(example.ids[:-1] + [0] * length)[:length] for example in examples]
    learned = [
        (row * length + column - 1, example.ids[column])
        for row, example in enumerate(examples)
        for column in range(1, len(example.ids))
        if example.learned[column]
    ]
    padding = _round_up(len(learned), ANSWER_STEP) - len(learned)
    where, targets = zip(*(learned + [(0, 0)] * padding), strict=True)
    weights = [1.0] * len(learned) + [0.0] * padding
    return Batch(mx.array(inputs), mx.array(where), mx.array(targets), mx.array(weights))


def pack(examples: list[Example], batch_tokens: int) -> list[Batch]:
    """Batches of about `batch_tokens` padded tokens, each of dialogues of similar length."""
    batches: list[Batch] = []
    rows: list[Example] = []
    for example in sorted(examples, key=lambda one: len(one.ids)):
        if rows and (len(rows) + 1) * len(example.ids) > batch_tokens:
            batches.append(make_batch(rows))
            rows = []
        rows.append(example)
    return [*batches, make_batch(rows)]


def _draw(tokenizer: PreTrainedTokenizerBase, rng: Random, lesson: Lesson) -> Example:
    chance = rng.random()
    if chance < lesson.copying:
        return copying_example(tokenizer, rng)
    if chance < lesson.copying + lesson.facts:
        return facts_example(tokenizer, rng)
    return encode(tokenizer, draw_dialogue(rng))


def endless_batches(
    tokenizer: PreTrainedTokenizerBase, rng: Random, batch_tokens: int, lesson: Lesson
) -> Iterator[Batch]:
    """New dialogues for ever. `lesson` is read for each pool: changing it is the curriculum."""
    while True:
        pool: list[Example] = []
        while len(pool) < POOL_DIALOGUES:
            example = _draw(tokenizer, rng, lesson)
            if len(example.ids) <= lesson.longest_tokens:
                pool.append(example)
        batches = pack(pool, batch_tokens)
        rng.shuffle(batches)
        yield from batches

"""Answers made of messages: which channel each goes to, and the calls among harmony's."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest

from inference.events import Channel
from inference.messages import Tool
from inference.streaming.answer_reader import AnswerReader
from inference.streaming.channels import HARMONY, KIMI_K3, MAX_HEADER_CHARS, MUSE_SPARK, ChannelSplitter, MessageFormat
from inference.streaming.dialects.choice import FORMATS, dialects
from inference.streaming.pieces import Piece, Said, joined
from inference.streaming.reading import Arguments, Begun
from tests.dialects.calls import TOOLS

NAMES = {id(format_): name for name, format_ in FORMATS.items()}
Told = list[str | tuple[str, str]]
"""Thoughts as `*text*`, content as text, a call as its name and arguments."""


def read(
    pieces: Iterable[str], format_: MessageFormat = HARMONY, tools: Sequence[Tool] = TOOLS
) -> tuple[tuple[Piece, ...], AnswerReader]:
    reader = AnswerReader(ChannelSplitter(format_), dialects((NAMES[id(format_)],)), tools)
    said = [one for piece in pieces for one in reader.push(piece)]
    return joined([*said, *reader.finish()]), reader


def told(said: Iterable[Piece]) -> Told:
    made: Told = []
    for piece in said:
        match piece:
            case Said(channel, text):
                made.append(f"*{text}*" if channel is Channel.REASONING else text)
            case Begun(name):
                made.append((name, ""))
            case Arguments(text):
                name, before = made.pop()
                made.append((str(name), before + text))
    return made


THOUGHT = "<|channel|>analysis<|message|>Need it.<|end|>"
CALL = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"text":"a <|end|> b"}<|call|>'
LOOKED = ("look", '{"text":"a <|end|> b"}')

ANSWERS: tuple[tuple[str, Told], ...] = (
    (THOUGHT + "<|start|>assistant<|channel|>final<|message|>2 + 2 = 4.<|return|>", ["*Need it.*", "2 + 2 = 4."]),
    (THOUGHT + "<|start|>assistant" + CALL, ["*Need it.*", LOOKED]),
    (THOUGHT + "<|start|>assistant" + CALL.removesuffix("<|call|>"), ["*Need it.*", LOOKED]),
    (" to=functions.look<|channel|>commentary json<|message|>{}", [("look", "{}")]),
    ("<|start|>assistant to=look<|channel|>commentary<|message|>{}<|call|>", [("look", "{}")]),
    (f"{CALL}<|start|>assistant{CALL}", [LOOKED, LOOKED]),
    ("<|channel|>analysis to=functions.look code<|message|><|call|>", [("look", "{}")]),
    (
        f"{THOUGHT}<|start|>assistant{THOUGHT}<|start|>assistant<|channel|>commentary<|message|>**Plan**<|end|>"
        f"<|start|>assistant{CALL}",
        ["*Need it.\nNeed it.*", "**Plan**", LOOKED],
    ),
    (f"{THOUGHT} \n<|start|>assistant<|channel|>final<|message|>a", ["*Need it.*", "a"]),
    ("the rest of a message that the prompt began<|return|>", ["the rest of a message that the prompt began"]),
    (" < ", [" < "]),
    (" " * 300 + "<|channel|>analysis", [" " * 300 + "<|channel|>analysis"]),
    ("<|channel|>final<|message|>a <|channel|> <|message|> to=functions.look b", [
        "a <|channel|> <|message|> to=functions.look b"
    ]),
    ("<|channel|>analysis<|message|>a<|start|>assistant<|channel|>final<|message|>b<|e", ["*a*", "b<|e"]),
    ("<|channel|>other<|message|>a<|end|>", ["a"]),
    ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|chan", ["*a*"]),
    ("<|channel|>" + "x" * 600, ["<|channel|>" + "x" * 600]),
    (
        "<|channel|>commentary to=functions.none <|constrain|>json<|message|>{}<|call|>",
        ["<|channel|>commentary to=functions.none <|constrain|>json<|message|>{}<|call|>"],
    ),
    (
        "<|channel|>commentary to=functions.look<|message|>{bad<|call|><|start|>assistant<|channel|>final<|message|>c",
        ["<|channel|>commentary to=functions.look<|message|>{bad<|call|>\nc"],
    ),
)  # fmt: skip


@pytest.mark.parametrize(("text", "wanted"), ANSWERS, ids=[text[:40] for text, _ in ANSWERS])
def test_messages_of_harmony(text: str, wanted: Told) -> None:
    said, _ = read([text])
    assert told(said) == wanted
    assert read(text)[0] == said
    chance = random.Random(5)
    for _ in range(600):
        places = sorted({0, len(text), *(chance.randrange(len(text)) for _ in range(chance.randint(1, 9)))})
        assert read([text[start:end] for start, end in pairwise(places)])[0] == said


def test_without_tools_a_call_is_what_was_written() -> None:
    call = '<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"text":"a"}<|call|>'
    assert told(read([THOUGHT + call], tools=())[0]) == ["*Need it.*", call]


@pytest.mark.parametrize("bad", ["{bad", '{"a": 1', "[]", "none"])
def test_a_malformed_call_is_counted_and_kept(bad: str) -> None:
    text = f"<|channel|>commentary to=functions.look <|constrain|>json<|message|>{bad}"
    said, reader = read([text])
    assert told(said) == [text] and reader.malformed == 1
    (broken,) = reader.broken_calls
    assert (broken.dialect, broken.chars > 60, broken.shown) == ("harmony", True, False)


def test_mutations_raise_nothing() -> None:
    chance = random.Random(3)
    for _ in range(500):
        text = chance.choice([text for text, _ in ANSWERS])
        for _ in range(chance.randint(1, 3)):
            start, size = chance.randrange(len(text)), chance.choice([1, 2, 8])
            text = (
                text[:start] + chance.choice(["", "<|", "to=", text[start : start + size] * 2]) + text[start + size :]
            )
            text = text or "x"
        said, _ = read([text])
        assert read(text)[0] == said
        body = "".join(piece.text for piece in said if isinstance(piece, Said))
        assert len(body) <= len(text) + text.count("<|message|>")  # a line feed parts two messages


def test_messages_of_muse_spark() -> None:
    call = '<atem:function_calls>\n<atem:invoke name="look">\n</atem:invoke>\n</atem:function_calls>'
    text = f"to=self<|message|>thought<|eom|><|start|>assistant to=look<|message|>{call}<|eom|>"
    text += "<|start|>assistant to=user<|message|>done<|eot|>"
    for pieces in ([text], list(text)):
        assert told(read(pieces, MUSE_SPARK)[0]) == ["*thought*", ("look", "{}"), "done"]


def test_messages_of_kimi_k3() -> None:
    call = '<|open|>call tool="look" index="1"<|sep|><|close|>call<|sep|>'
    text = "<|open|>think<|sep|>thought<|close|>think<|sep|><|open|>response<|sep|>so<|close|>response<|sep|>"
    text += f"<|open|>tools<|sep|>{call}<|close|>tools<|sep|><|close|>message<|sep|>"
    for pieces in ([text], list(text)):
        assert told(read(pieces, KIMI_K3)[0]) == ["*thought*", "so", ("look", "{}")]


def test_an_answer_may_begin_in_a_thought() -> None:
    splitter = ChannelSplitter(KIMI_K3, thinking=True)
    assert splitter.thinking
    text = "still<|close|>think<|sep|><|open|>response<|sep|>so"
    said = [*splitter.push(text), *splitter.finish()]
    assert said == [(Channel.REASONING, "still"), (Channel.CONTENT, "so")] and not splitter.thinking
    announced = ChannelSplitter(HARMONY, thinking=True)
    assert announced.push("<|channel|>final<|message|>a") == ((Channel.CONTENT, "a"),)
    assert ChannelSplitter(HARMONY, thinking=True).finish() == ()


def test_white_space_and_headers_cost_no_more_than_they_are_long() -> None:
    splitter = ChannelSplitter(HARMONY)
    for text in ("\n" * 20_000, "<|channel|>" + "y" * 20_000):
        held = sum(len(piece) for char in text for _, piece in splitter.push(char))
        assert held >= len(text) - 2 * MAX_HEADER_CHARS

"""What an answer's text costs per token: stop strings, splitter and tool calls, in pieces of four characters.

Without model, tokenizer and server. Processor time, so that other work on the machine shows less.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from inference.messages import Tool
from inference.streaming.answer_reader import AnswerReader
from inference.streaming.channels import HARMONY, ChannelSplitter
from inference.streaming.dialects.choice import dialects
from inference.streaming.reading import Ended
from inference.streaming.splitter import Splitter, TextSplitter
from inference.streaming.stop import StopMatcher
from tests.benchmarks.figure import Figure, at_most

LIMIT_US = 20.0
CHARS = 4
"""Of a token: what code and English have in the vocabularies of today."""
ROUNDS = 9
STOP = ("\nUser:", "<|endoftext|>", "Observation:", "###")
TOOLS = tuple(
    Tool(
        f"tool_{number}", "", {"type": "object", "properties": {"path": {"type": "string"}, "text": {"type": "string"}}}
    )
    for number in range(60)
)
CODE = 'if (a < b && c > d) {\n    const x = `${f("<div>")}</div>`; // [1, 2]\n}\n' * 60
PROSE = "The user wants a small change in one file; I look at it first, then I write. " * 60
ARGUMENTS = json.dumps({"path": "src/main.tsx", "text": CODE})
TAGS = f"<parameter=path>\nsrc/main.tsx\n</parameter>\n<parameter=text>\n{CODE}\n</parameter>"
ANSWERS: dict[str, tuple[tuple[str, ...], str, int]] = {
    "a thought and code": ((), f"<think>\n{PROSE}\n</think>\n\n{CODE}", 0),
    "a call in JSON": ((), f'<tool_call>\n{{"name": "tool_7", "arguments": {ARGUMENTS}}}\n</tool_call>', 1),
    "a call in XML": ((), f"<tool_call>\n<function=tool_7>\n{TAGS}\n</function>\n</tool_call>", 1),
    "messages": (
        ("harmony",),
        f"<|channel|>analysis<|message|>{PROSE}<|end|><|start|>assistant<|channel|>commentary to=functions.tool_7 "
        f"<|constrain|>json<|message|>{ARGUMENTS}<|call|>",
        1,
    ),
    "twenty short calls": ((), '<tool_call>{"name": "tool_7", "arguments": {"path": "a.py"}}</tool_call>\n' * 20, 20),
    "sixty broken calls": ((), '<tool_call>{"name": "nobody", "arguments": {"path": "a.py"}}</tool_call>\n' * 60, 0),
}


def run() -> Iterator[Figure]:
    for name, (names, text, calls) in ANSWERS.items():
        read(names, text, calls)
        measured = [read(names, text, calls) for _ in range(ROUNDS)]
        yield at_most(f"text of {name}, per token", measured, LIMIT_US, f"{len(text) // CHARS} tokens", "us")


def read(names: tuple[str, ...], text: str, calls: int) -> float:
    """Reads one answer with `calls` in it; microseconds of processor time per token."""
    pieces = [text[at : at + CHARS] for at in range(0, len(text), CHARS)]
    splitter: TextSplitter = ChannelSplitter(HARMONY) if names else Splitter("<think>", "</think>")
    began_s = time.process_time()
    matcher, reader, said = StopMatcher(STOP), AnswerReader(splitter, dialects(names), TOOLS), list[object]()
    for piece in pieces:
        shown, stopped = matcher.push(piece)
        assert not stopped
        said += reader.push(shown)
    said += reader.push(matcher.finish())
    said += reader.finish()
    took_s = time.process_time() - began_s
    assert sum(isinstance(one, Ended) and one.whole for one in said) == calls
    return took_s / len(pieces) * 1e6

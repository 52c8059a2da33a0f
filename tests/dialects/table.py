"""Every dialect with its writer, its oracle, and what a string may hold in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from inference.events import Channel
from inference.streaming.answer_reader import AnswerReader
from inference.streaming.dialects.choice import dialects
from inference.streaming.dialects.table import DIALECTS
from inference.streaming.pieces import Piece, Said, joined
from inference.streaming.reading import Arguments, Begun
from inference.streaming.splitter import ReasoningMode, Splitter
from tests.dialects import oracles, writers
from tests.dialects.calls import TOOLS, Call, folded
from tests.dialects.calls import Said as Parts
from tests.dialects.oracles import Oracle
from tests.dialects.writers import Writer


@dataclass(frozen=True, slots=True)
class Way:
    """One way of writing calls. `nasty` are texts like markup that its strings may hold, `avoid` those they may not.

    `alone`: it is a call only as the whole content. `dropped` stands behind calls and is shown nowhere.
    """

    name: str
    dialect: str
    write: Writer
    oracle: Oracle
    nasty: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    alone: bool = False

    def __str__(self) -> str:
        return self.name


def _way(name: str, dialect: str, oracle: Oracle, nasty: Sequence[str], dropped: str = "", **more: Any) -> Way:
    return Way(name, dialect, getattr(writers, name), oracle, tuple(nasty), dropped=tuple(dropped.split()), **more)


_K3_END = "<|close|>tools<|sep|>"
_M3_END = "]<]minimax[>[</tool_call>"

WAYS: tuple[Way, ...] = (
    _way("pythonic", "pythonic", oracles.pythonic, ["]<|tool_call_end|>", ")]", "look("], "] <|tool_call_end|>"),
    _way("pythonic_llama4", "pythonic", oracles.pythonic_llama4, ["]<|python_end|>", "\\n"], "] <|python_end|>"),
    _way("pythonic_bare", "pythonic", oracles.pythonic_bare, [")]", "look(text='a')"], "]", alone=True),
    _way(
        "function_gemma", "function_gemma", oracles.function_gemma, ["<end_function_call>", "}<", "call:look{"],
        "<end_function_call>", avoid=("<escape>",),
    ),
    _way("gemma4", "gemma4", oracles.gemma4, ["<tool_call|>", '|"|', "}<"], "<tool_call|>", avoid=('<|"|>',)),
    _way(
        "kimi_k2", "kimi_k2", oracles.kimi_k2, ["<|tool_call_end|>", "<|tool_calls_section_end|>"],
        "<|tool_calls_section_end|>",
    ),
    _way("kimi_k3", "kimi_k3", oracles.kimi_k3, ["<|close|>call<|sep|> x", "<|open|>"], _K3_END),
    _way("kimi_k3_json", "kimi_k3", oracles.kimi_k3, ["<|open|>json"], _K3_END),
    _way("minimax_m2", "minimax_m2", oracles.minimax_m2, ["</parameter> x", "</minimax:tool_call>"],
         "</minimax:tool_call>"),
    _way("muse_spark", "muse_spark", oracles.muse_spark, ["</atem:parameter> x", "</atem:invoke>"],
         "</atem:function_calls>"),
    _way("dsml", "deepseek_dsml", oracles.dsml, ["</｜DSML｜parameter> x"], "</｜DSML｜function_calls>"),
    _way("dsml_v4", "deepseek_dsml", oracles.dsml, ["<｜DSML｜parameter"], "</｜DSML｜tool_calls>"),
    _way("minicpm5", "minicpm5", oracles.minicpm5, ["</param>", "</function>", "&amp;"], avoid=("]]>",)),
    _way("longcat", "longcat", oracles.longcat, ["</longcat_arg_value> x", "<longcat_arg_key"]),
    _way("longcat_json", "longcat", oracles.longcat, ["</longcat_tool_call>"]),
    _way("deepseek_v3", "deepseek", oracles.deepseek_v3, ["```<｜tool▁call▁end｜>"], "<｜tool▁calls▁end｜>"),
    _way("deepseek_v31", "deepseek", oracles.deepseek_v31, ["<｜tool▁call▁end｜>"], "<｜tool▁calls▁end｜>"),
    _way("cohere", "cohere", oracles.cohere, ["]<|END_ACTION|>", "\\|"], "] <|END_ACTION|>"),
)  # fmt: skip


def read(pieces: Iterable[str], names: Sequence[str], *, every: bool = False) -> tuple[Piece, ...]:
    """What the machine makes of an answer. `every`: all dialects are on, these first."""
    on = dialects((*names, *DIALECTS)) if every else tuple(DIALECTS[name] for name in names)
    reader = AnswerReader(Splitter(mode=ReasoningMode.OFF), on, TOOLS)
    said = [found for piece in pieces for found in reader.push(piece)]
    return joined([*said, *reader.finish()])


def parts(said: Iterable[Piece]) -> Parts:
    """The same as texts and calls with their arguments read."""
    made: list[str | Call] = []
    open_call: list[str] = []
    for piece in said:
        match piece:
            case Said(channel, text):
                assert channel is Channel.CONTENT
                made.append(text)
            case Begun(name):
                open_call = [name, ""]
            case Arguments(text):
                open_call[1] += text
            case _:
                made.append((open_call[0], json.loads(open_call[1])))
    return folded(made)

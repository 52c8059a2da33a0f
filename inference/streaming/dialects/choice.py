"""Which dialects a model's answers are read in: those its template or vocabulary shows, or the one that was named.

A template that names another dialect than the model speaks is no harm: `ALWAYS` is read in whatever the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from inference.streaming.channels import HARMONY, KIMI_K3, MUSE_SPARK, MessageFormat
from inference.streaming.dialect import Dialect
from inference.streaming.dialects.table import ALWAYS, DIALECTS


@dataclass(frozen=True, slots=True)
class Sign:
    """A dialect and the texts it is known by: all of one of the groups."""

    dialect: str
    groups: tuple[tuple[str, ...], ...]


SIGNS: Final = (
    Sign("harmony", (("<|channel|>", "<|message|>", "commentary"), ("<|channel|>", "<|message|>", "<|call|>"))),
    Sign("muse_spark", (("<atem:function_calls>",),)),
    Sign("minimax_m3", (("]<]minimax[>[",),)),
    Sign("minimax_m2", (("<minimax:tool_call>",),)),
    Sign("deepseek_dsml", (("｜DSML｜",),)),
    Sign("deepseek", (("<｜tool▁calls▁begin｜>",), ("<｜tool▁call▁begin｜>",))),
    Sign("kimi_k3", (("<|open|>", "<|close|>", "<|sep|>"),)),
    Sign("kimi_k2", (("<|tool_calls_section_begin|>",), ("<|tool_call_argument_begin|>",))),
    Sign("gemma4", (("<|tool_call>", "<tool_call|>"),)),
    Sign("function_gemma", (("<start_function_call>",),)),
    Sign("longcat", (("<longcat_tool_call>",),)),
    Sign("cohere", (("<|START_ACTION|>",),)),
    Sign("minicpm5", (('<function name="', '<param name="'),)),
    Sign(
        "pythonic",
        (("<|tool_call_start|>",), ("<|tool_list_start|>",), ("<|python_start|>",), ("<|python_tag|>",)),
    ),
)
"""The most telling first: signs of the lower ones stand in templates of the upper ones too."""

_OTHER_NAMES: Final = {
    "hermes": "json",
    "json_tools": "json",
    "qwen3_coder": "xml",
    "xml_function": "xml",
    "glm47": "tagged",
    "laguna": "tagged",
    "llama": "llama_json",
    "atem": "muse_spark",
    "cohere2_moe": "cohere",
    "deepseek_v3": "deepseek",
    "deepseek_v31": "deepseek",
    "deepseek_v32": "deepseek_dsml",
    "gpt_oss": "harmony",
    "lfm2": "pythonic",
}
"""Names that people know from other programs."""

AUTO: Final = "auto"
NAMES: Final[Mapping[str, str]] = MappingProxyType({name: name for name in DIALECTS} | _OTHER_NAMES)
"""Every name a dialect may be called by, with its own."""

FORMATS: Final[Mapping[str, MessageFormat]] = MappingProxyType(
    {"harmony": HARMONY, "muse_spark": MUSE_SPARK, "kimi_k3": KIMI_K3}
)
"""Dialects of models whose answers are made of messages."""


def detect(template: str, tokens: Iterable[str] = ()) -> tuple[str, ...]:
    """The dialects of a model by its chat template and the texts of its structural tokens, most likely first."""
    seen = "\0".join((template, *tokens))
    return tuple(sign.dialect for sign in SIGNS if any(all(text in seen for text in group) for group in sign.groups))


def spoken(detected: Iterable[str], named: str = AUTO) -> tuple[str, ...]:
    """The dialects to read besides those that any model may use: the detected ones, unless one was `named`.

    A name changes how calls are read, not that a model's answers are made of messages.
    """
    detected = tuple(detected)
    return detected if named == AUTO else (NAMES[named], *(name for name in detected if name in FORMATS))


def dialects(names: Iterable[str]) -> tuple[Dialect, ...]:
    """Those of these names, then those that are always read, each once."""
    return tuple(DIALECTS[name] for name in dict.fromkeys((*names, *ALWAYS)))


def message_format(names: Iterable[str]) -> MessageFormat | None:
    """How answers of a model with these dialects are made of messages; None: they are one text."""
    return next((FORMATS[name] for name in names if name in FORMATS), None)


def markers(names: Iterable[str]) -> tuple[str, ...]:
    """Texts that may be special tokens of a model, which are silent unless they are asked for."""
    format_ = message_format(names := tuple(names))
    found = [marker for dialect in dialects(names) for marker in dialect.markers]
    return tuple(dict.fromkeys((*found, *(format_.markers if format_ else ()))))

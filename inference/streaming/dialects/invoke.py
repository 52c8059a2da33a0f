"""Calls as `invoke` tags in a section, their arguments in `parameter` tags.

    <minimax:tool_call><invoke name="NAME"><parameter name="KEY">VALUE</parameter></invoke></minimax:tool_call>
    <atem:function_calls><atem:invoke name="NAME"><atem:parameter name="KEY">VALUE</atem:parameter></atem:invoke>
    </atem:function_calls>                                                                       Muse Spark
    <｜DSML｜function_calls><｜DSML｜invoke name="NAME"><｜DSML｜parameter name="KEY" string="true">VALUE
    </｜DSML｜parameter></｜DSML｜invoke></｜DSML｜function_calls>                                     DeepSeek V3.2, V4

Values are text, typed by the schema; with `string="false"` they are JSON. A value is what stands between its tags, to
the letter. It ends at a closing tag behind which a next parameter or the end of the call stands, so it may hold one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from inference.streaming.dialect import Dialect
from inference.streaming.dialects.attributes import attributes
from inference.streaming.dialects.sections import calls
from inference.streaming.json_text import Sink
from inference.streaming.parameters import Parameters
from inference.streaming.reading import Broken, Reading, Source


@dataclass(frozen=True, slots=True)
class _Tags:
    """How the inner tags of a dialect begin and end."""

    invoke: str
    invoke_end: str
    parameter: str
    parameter_end: str

    def value(self, source: Source) -> Callable[[Sink], Reading[None]]:
        ends = {self.parameter_end: (self.parameter, self.invoke_end)}
        return lambda sink: source.value(sink, ends, {self.invoke_end: (self.invoke,)})


def _call(source: Source, tags: _Tags) -> Reading[None]:
    source.claim()
    named = yield from attributes(source, ">")
    parameters = Parameters(source, source.begin(named.get("name", "")))
    while True:
        yield from source.space()
        if (yield from source.expect(tags.parameter, tags.invoke_end)) == tags.invoke_end:
            break
        yield from _parameter(source, tags, parameters)
    parameters.end()
    source.end()


def _parameter(source: Source, tags: _Tags, parameters: Parameters) -> Reading[None]:
    about = yield from attributes(source, ">")
    key = about.get("name", "")
    if not key:
        raise Broken("no key")
    match about.get("string"):
        case None:
            read = parameters.read
        case "true":
            read = parameters.read_text
        case _:
            read = parameters.read_json
    yield from read(key, tags.value(source))


def _dialect(name: str, prefix: str, *sections: str) -> Dialect:
    tags = _Tags(f"<{prefix}invoke", f"</{prefix}invoke>", f"<{prefix}parameter", f"</{prefix}parameter>")
    openers, closers = (tuple(f"{mark}{section}>" for section in sections) for mark in ("<", "</"))

    def read(source: Source) -> Reading[None]:
        yield from calls(source, lambda source: _call(source, tags), tags.invoke, *closers)

    return Dialect(name, read, openers=openers, markers=(*openers, *closers, *filter(None, [prefix])))


MINIMAX_M2: Final = _dialect("minimax_m2", "", "minimax:tool_call")
MUSE_SPARK: Final = _dialect("muse_spark", "atem:", "atem:function_calls")
DSML: Final = _dialect("deepseek_dsml", "｜DSML｜", "｜DSML｜function_calls", "｜DSML｜tool_calls")

"""The process that tries grammars out; `main` is called with the number of an inherited socket.

Compiling releases the interpreter's lock and cannot be stopped: `multipleOf: 999983` takes 9 s and 450 MB, twenty
counted patterns in one `allOf` never end, and a fault of the library would end the daemon. So a grammar is compiled and
followed for a few tokens here first, where the parent may kill it.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random
from typing import Any, Final

from llguidance import LLMatcher, LLTokenizer

from inference.engine.grammar_limits import LIMITS, MAX_COMPILED_BYTES, MAX_STEP_S, reason
from inference.engine.grammar_vocabulary import vocabulary
from inference.engine.peak_memory import peak_bytes
from inference.errors import UnsupportedParameter
from inference.ports import Tokenizer

MAX_MODELS: Final = 4
_PROBED_TOKENS: Final = 12
_MEMORY_BYTES: Final = 4 << 30


@dataclass(frozen=True, slots=True)
class Model:
    """The vocabulary that the next grammars are for. Answered by a `Verdict` on it."""

    key: str
    tokenizer: Tokenizer


@dataclass(frozen=True, slots=True)
class Trial:
    """A grammar to try."""

    key: str
    lark: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """The process does not hold this model: send it first."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fault` "": the grammar works. `nbytes` is the memory that compiling it took.

    `lasting`: the same grammar will meet the same fault; a busy machine may be to blame for one that was overdue.
    """

    fault: str = ""
    nbytes: int = 0
    lasting: bool = True


def try_out(words: LLTokenizer, lark: str) -> Verdict:
    """Compiles a grammar and follows it for some tokens of a random walk."""
    before = peak_bytes()
    matcher = LLMatcher(words, lark, log_level=0, limits=LIMITS)
    if matcher.is_error():
        return Verdict(reason(matcher.get_error()))
    fault, nbytes = _walk(matcher, words.vocab_size), max(0, peak_bytes() - before)
    return Verdict("it takes too much memory" if nbytes > MAX_COMPILED_BYTES else fault, nbytes)


def _walk(matcher: LLMatcher, size: int) -> str:
    """The fault that is met, "" for none: a dead end, a limit, or a token that takes too long to decide."""
    random = Random(0)  # noqa: S311  the same walk for the same grammar
    for _ in range(_PROBED_TOKENS):
        if matcher.is_stopped():
            break
        began_s = time.process_time()
        mask = int.from_bytes(matcher.compute_bitmask(), "little")
        if time.process_time() - began_s > MAX_STEP_S:
            return "it takes too long to decide which token may come next"
        if matcher.is_error() or not mask:
            return "no text satisfies it" if "NoExtension" in matcher.get_error() else reason(matcher.get_error())
        if not matcher.consume_token(_any_bit(mask, random.randrange(size))):
            return reason(matcher.get_error())
    return ""


def _any_bit(mask: int, start: int) -> int:
    """The lowest bit set at or after `start`, else the lowest of all."""
    rest = mask >> start << start or mask
    return (rest & -rest).bit_length() - 1


def serve(connection: Connection) -> None:
    """Answers until the parent is gone."""
    models: OrderedDict[str, LLTokenizer] = OrderedDict()
    while True:
        try:
            connection.send(_answer(connection.recv(), models))
        except (EOFError, OSError):
            return


def _answer(order: Model | Trial, models: OrderedDict[str, LLTokenizer]) -> Verdict | Unknown:
    if isinstance(order, Trial):
        words = models.get(order.key)
        return Unknown() if words is None else try_out(words, order.lark)
    try:
        models[order.key] = vocabulary(order.tokenizer)
    except UnsupportedParameter as error:
        return Verdict(error.message)
    while len(models) > MAX_MODELS:
        models.popitem(last=False)
    return Verdict()


def main(arguments: Sequence[Any] = sys.argv) -> None:
    """Serves the socket whose number is the one argument."""
    with suppress(ValueError, OSError):  # best effort: macOS does not hold a process to it
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Connection(int(arguments[1])) as connection:
        serve(connection)

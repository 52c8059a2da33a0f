"""Grammars over llguidance: compiled once at admission, followed by one matcher for each answer.

    tried out in a process that can be killed -> compiled here -> kept, least recently used out first

A grammar that fails is remembered as failed, so that a bomb sent again costs nothing. Nothing is written to disk.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from llguidance import LLMatcher, LLTokenizer

from inference.engine.grammar_limits import (
    CACHED_BYTES,
    CACHED_GRAMMARS,
    FLOOR_BYTES,
    LIMITS,
    MAX_LARK_BYTES,
    OVERDUE_KEPT_S,
    reason,
)
from inference.engine.grammar_trial import TrialProcess, TrialStats
from inference.engine.grammar_vocabulary import vocabulary
from inference.errors import GenerationFailed, InvalidParameter, UnsupportedParameter
from inference.params import Grammar
from inference.ports import Clock, ModelRef, Tokenizer

_MAX_VOCABULARIES = 4


class LlgMatcher:
    """The port `TokenMatcher`. Its mask covers the tokenizer's ids; a model's ids beyond them are never allowed."""

    __slots__ = ("_matcher",)

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def advance(self, token: int) -> bool:
        return self._matcher.consume_token(token)

    def allowed(self) -> bytes:
        """Raises `GenerationFailed` when the text has met a limit of the grammar: it is never left unconstrained."""
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise GenerationFailed("The grammar of this answer became too complex to follow.")
        return mask

    @property
    def stopped(self) -> bool:
        return self._matcher.is_stopped()


class LlgGrammar:
    """The port `CompiledGrammar`: a matcher that never moves, and is copied for each answer."""

    __slots__ = ("_lock", "_matcher", "nbytes")

    def __init__(self, matcher: LLMatcher, nbytes: int) -> None:
        self._matcher = matcher
        self._lock = threading.Lock()
        self.nbytes = nbytes

    def matcher(self) -> LlgMatcher:
        with self._lock:
            return LlgMatcher(self._matcher.deep_copy())


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a grammar cannot be had, by the monotonic clock until `until_s`."""

    fault: str
    until_s: float = math.inf

    @property
    def nbytes(self) -> int:
        return FLOOR_BYTES


Known = LlgGrammar | Refused


class GrammarCache:
    """Compiled and refused grammars by their digest, bounded by count and bytes. Thread-safe."""

    def __init__(
        self, max_entries: int = CACHED_GRAMMARS, max_bytes: int = CACHED_BYTES, *, clock: Clock = time.monotonic
    ) -> None:
        self._max_entries, self._max_bytes, self._clock = max_entries, max_bytes, clock
        self._entries: OrderedDict[bytes, Known] = OrderedDict()
        self._lock = threading.Lock()
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Known | None:
        with self._lock:
            found = self._entries.get(key)
            if isinstance(found, Refused) and found.until_s < self._clock():
                self._drop(key)
                return None
            if found is not None:
                self._entries.move_to_end(key)
            return found

    def put(self, key: bytes, known: Known) -> None:
        """What is larger than the whole cache is not kept."""
        with self._lock:
            if key in self._entries or known.nbytes > self._max_bytes:
                return
            self._entries[key] = known
            self.nbytes += known.nbytes
            while len(self._entries) > self._max_entries or self.nbytes > self._max_bytes:
                self._drop(next(iter(self._entries)))

    def _drop(self, key: bytes) -> None:
        self.nbytes -= self._entries.pop(key).nbytes


class LlgCompiler:
    """The port `GrammarCompiler`. `tokenizer_of` gives the tokenizer of a model that is served.

    `compile` blocks: for a grammar that is known not at all, for a usual one 5 ms, for any 2 s and those that wait
    before it; for the first grammar of a model also until its vocabulary is read.
    """

    def __init__(self, tokenizer_of: Callable[[ModelRef], Tokenizer], trial: TrialProcess | None = None) -> None:
        self._tokenizer_of = tokenizer_of
        self._trial = trial or TrialProcess()
        self.cache = GrammarCache()
        self._words: OrderedDict[str, LLTokenizer] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def trials(self) -> TrialStats:
        return self._trial.stats

    def compile(self, model: ModelRef, grammar: Grammar) -> LlgGrammar:
        """Raises `InvalidParameter`, `UnsupportedParameter` where the model's tokenizer cannot, or `BusyError`."""
        key = hashlib.sha256(f"{model.path}\0{grammar.lark}".encode("utf-8", "replace")).digest()
        known = self.cache.get(key)
        if known is None:
            try:
                known = self._make(model, grammar.lark)
            except UnsupportedParameter as error:
                raise UnsupportedParameter(error.message, param=grammar.param) from None
            self.cache.put(key, known)
        if isinstance(known, Refused):
            raise InvalidParameter(f"{grammar.param} cannot be enforced: {known.fault}.", param=grammar.param)
        return known

    def close(self) -> None:
        self._trial.close()

    def _make(self, model: ModelRef, lark: str) -> Known:
        if len(lark) > MAX_LARK_BYTES:
            return Refused(f"it has more than {MAX_LARK_BYTES} bytes")
        words = self._vocabulary(model)
        verdict = self._trial.judge(str(model.path), lambda: self._tokenizer_of(model), lark)
        if verdict.fault:
            return Refused(verdict.fault, math.inf if verdict.lasting else time.monotonic() + OVERDUE_KEPT_S)
        matcher = LLMatcher(words, lark, log_level=0, limits=LIMITS)
        if matcher.is_error():
            return Refused(reason(matcher.get_error()))
        return LlgGrammar(matcher, FLOOR_BYTES + 16 * len(lark) + verdict.nbytes)

    def _vocabulary(self, model: ModelRef) -> LLTokenizer:
        with self._lock:
            words = self._words.get(str(model.path))
            if words is None:
                words = self._words[str(model.path)] = vocabulary(self._tokenizer_of(model))
            self._words.move_to_end(str(model.path))
            while len(self._words) > _MAX_VOCABULARIES:
                self._words.popitem(last=False)
            return words

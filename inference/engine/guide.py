"""A guide at work in one row: told each token of the answer, it says which may come next.

It knows ids only, neither text nor logits. With a grammar an answer goes one way:

    perhaps a thought --opener--> thought --closer, or budget and closing--> text of the grammar --complete--> over

The text begins right behind the closer; white space that a template writes there belongs into `closing`, or into the
grammar. Until the text has begun no id ends the row, so a constrained answer cannot end without it. Without a grammar
only thoughts are watched, wherever they stand: one that was cut at its budget cannot be opened again, for the model
would go on with it and never come to its answer. A closer of several ids that was begun when the budget is used up is
completed, instead of a closing behind half a closer.
"""

from __future__ import annotations

from inference.errors import GenerationFailed
from inference.ports import Guide, ThoughtSpan, TokenMatcher
from inference.tokens import TokenIds

NOTHING: frozenset[int] = frozenset()


class Thought:
    """Where an answer stands in its thoughts. `inside`: in one, its markers and a forced closing included."""

    __slots__ = ("_closing", "_cut", "_span", "_tail", "_tokens", "inside")

    def __init__(self, span: ThoughtSpan) -> None:
        self._span = span
        self._tail: TokenIds = ()
        self._closing: TokenIds = ()
        self._cut = False
        self._tokens = 0
        self.inside = False
        if span.open:
            self._enter()

    @property
    def forced(self) -> int | None:
        """The id that has to come next, while a thought is being closed."""
        return self._closing[0] if self._closing else None

    @property
    def opening(self) -> int:
        """How many of the opener's ids, not all of them, the answer ends with."""
        return _begun(self._tail, self._span.opener)

    @property
    def next_opener(self) -> int | None:
        """The id that would go on with an opener, or begin one."""
        return self._span.opener[self.opening] if self._span.opener else None

    @property
    def banned(self) -> frozenset[int]:
        """What would open a thought again that was cut."""
        opener = self._span.opener
        completes = self._cut and not self.inside and opener and self.opening == len(opener) - 1
        return frozenset(opener[-1:]) if completes else NOTHING

    def push(self, token: int) -> None:
        self._tail = (*self._tail, token)[-max(len(self._span.opener), len(self._span.closer)) :]
        if not self.inside:
            if _ends_with(self._tail, self._span.opener):
                self._enter()
        elif self._closing:
            self._closing = self._closing[1:]
            if not self._closing:
                self._leave()
        elif _ends_with(self._tail, self._span.closer):
            self._leave()
        else:
            self._tokens += 1
            self._limit()

    def _enter(self) -> None:
        self.inside, self._tail, self._tokens = True, (), 0
        self._limit()

    def _leave(self) -> None:
        self.inside, self._tail = False, ()

    def _limit(self) -> None:
        budget, closer = self._span.budget_tokens, self._span.closer
        if budget is not None and self._tokens >= budget:
            begun = _begun(self._tail, closer)
            self._closing, self._cut = closer[begun:] if begun else self._span.closing or closer, True


class RowGuide:
    """What may come next in one row: `forced`, or else what `allowed` holds (None: everything) less `banned`.

    `allowed` has one bit for each id, as `TokenMatcher` gives it. `over`: the answer is complete. `banned` adds to
    what the job bans by itself; a forced id overrides both.
    """

    __slots__ = ("_ends", "_grammar", "_matcher", "_opened", "_span", "_thought", "allowed", "banned", "forced", "over")

    def __init__(self, guide: Guide, ends: frozenset[int] = NOTHING) -> None:
        """`ends` are the ids that end the row, those banned for good included.

        Raises `GenerationFailed` when the grammar allows no beginning.
        """
        self._ends = ends
        self._grammar = guide.grammar
        self._span = guide.thought
        self._thought = None if guide.thought is None else Thought(guide.thought)
        self._matcher: TokenMatcher | None = None
        self._opened = 0
        self.over = False
        if guide.grammar is not None and not (self._thought and self._thought.inside):
            self._matcher = guide.grammar.matcher()
        self._settle()

    def advance(self, token: int) -> None:
        """Takes a drawn token. Raises `GenerationFailed` when the grammar refuses it or knows no way on."""
        if self.over:
            raise _refused()
        if self._thought is None:
            self._read(token)
        elif self._grammar is None:
            self._thought.push(token)
        else:
            self._approach(token, self._thought)
        self._settle()

    def _read(self, token: int) -> None:
        if self._matcher is not None and not self._matcher.advance(token):
            raise _refused()

    def _approach(self, token: int, thought: Thought) -> None:
        """A token before the text of the grammar, or perhaps its first: opener and text may begin alike."""
        was_inside = thought.inside
        thought.push(token)
        if thought.inside:
            self._matcher = None
        elif was_inside and self._grammar is not None:
            self._begin(self._grammar.matcher())
        else:
            self._opened = thought.opening if thought.opening == self._opened + 1 else 0
            if self._matcher is not None and not self._matcher.advance(token):
                self._matcher = None
            if not self._opened:
                self._begin(self._matcher)

    def _begin(self, matcher: TokenMatcher | None) -> None:
        """From here on the text decides, and nothing in it is a thought."""
        if matcher is None:
            raise _refused()
        self._matcher, self._thought = matcher, None

    def _settle(self) -> None:
        thought, self.forced, self.allowed, self.banned = self._thought, None, None, NOTHING
        if self._grammar is None:
            self.forced, self.banned = (thought.forced, thought.banned) if thought else (None, NOTHING)
        elif thought is not None and thought.inside:
            self.forced = thought.forced
            self.banned = self._ends.difference(self._span.closer if self._span else ())
        else:
            self.allowed = self._choices(thought)

    def _choices(self, thought: Thought | None) -> bytes:
        """The next ids of the text and, before it, those of an opener. Sets `over` where only an end may follow."""
        matcher = self._matcher
        if thought is None and matcher is not None and matcher.stopped:
            self.over = True
            return _with(b"", *self._ends)
        allowed = b"" if matcher is None else matcher.allowed()
        if thought is not None and (opener := thought.next_opener) is not None:
            return _with(allowed, opener)
        self.over = _holds_only(allowed, self._ends)
        if not any_bit(allowed):
            raise _refused()
        return allowed


def _refused() -> GenerationFailed:
    return GenerationFailed("The answer left its grammar and was ended; it is never continued unconstrained.")


def _ends_with(tail: TokenIds, marker: TokenIds) -> bool:
    return bool(marker) and tail[-len(marker) :] == marker


def _begun(tail: TokenIds, marker: TokenIds) -> int:
    """How many of the marker's ids, not all of them, `tail` ends with."""
    return next((size for size in range(len(marker) - 1, 0, -1) if _ends_with(tail, marker[:size])), 0)


# --- sets of ids as bits, least significant first ----------------------------------------------------------------


def any_bit(bits: bytes | bytearray) -> bool:
    """Compared as a whole, which stops at the first bit: 1 us for 150,000 ids."""
    return bits != bytes(len(bits))


def _with(bits: bytes, *tokens: int) -> bytes:
    wider = bytearray(bits.ljust(max(tokens, default=0) // 32 * 4 + 4, b"\0"))
    for token in tokens:
        wider[token >> 3] |= 1 << (token & 7)
    return bytes(wider)


def _holds_only(bits: bytes, ids: frozenset[int]) -> bool:
    """Whether there are bits and all of them are of `ids`."""
    held = [token for token in ids if token >> 3 < len(bits) and bits[token >> 3] >> (token & 7) & 1]
    if not held:
        return False
    rest = bytearray(bits)
    for token in held:
        rest[token >> 3] &= ~(1 << (token & 7))
    return not any_bit(rest)

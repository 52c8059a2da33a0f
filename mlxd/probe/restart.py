"""What a server computes again because it was ended in between: in order (SIGTERM), or not (kill -9).

Each mode has conversations of its own. They are held for some turns, the server is ended right behind the last frame
of the last answer and started again, and each conversation has one more turn. Necessary is what it would be for a
server that was never ended.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from mlxd.probe.asks import Ask, Message, Play
from mlxd.probe.content import prose
from mlxd.probe.oracle import Oracle
from mlxd.probe.run import Target, Turn, play_all

MODES: Final = {"SIGTERM": signal.SIGTERM, "kill -9": signal.SIGKILL}
MIN_CACHED: Final = 0.97
MAX_BEYOND_TOKENS: Final = 255
"""Less than a block of 256 for each conversation: what had not been completed yet."""
SYSTEM_WORDS: Final = 1400
MORE_WORDS: Final = 70
"""In each conversation than in the one before, so that they do not all end at one place of a server's blocks."""
TURN_WORDS: Final = 60
LAST_WORDS: Final = 8
"""So short that 97 % of the prompt are what was read before."""
WHOLE: Final = {"ignore_eos": True}
"""A model that has nothing to say would leave nothing to be found again. Servers that do not know it let it pass."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The turn of a conversation behind a restart. `start_s` is how long the server took to answer again."""

    mode: str
    turn: Turn
    start_s: float

    @property
    def share(self) -> float:
        """Of its prompt that was cached."""
        return self.turn.cached / self.turn.prompt if self.turn.prompt else 0.0

    @property
    def beyond_tokens(self) -> int:
        """Computed though it had been computed before."""
        return self.turn.prefilled - self.turn.necessary

    def passes(self, min_cached: float = MIN_CACHED, max_beyond_tokens: int = MAX_BEYOND_TOKENS) -> bool:
        """In order nearly all must be there; behind a kill all but the unfinished end."""
        if self.turn.hidden:
            return False
        if self.mode == "SIGTERM":
            return self.share >= min_cached
        return self.beyond_tokens <= max_beyond_tokens


def probe(
    target: Target,
    oracle: Oracle,
    again: Callable[[signal.Signals], float],
    *,
    modes: Sequence[str] = tuple(MODES),
    conversations: int = 3,
    turns: int = 3,
) -> Iterator[Resumed]:
    """Plays all modes. `again` ends the server with a signal and comes back when it answers, with the seconds of that.

    Raises `ProbeFailed`.
    """
    starts: dict[str, float] = {}

    def scenario(mode: str) -> Callable[[], Play]:
        def end() -> None:
            starts[mode] = again(MODES[mode])

        return lambda: _held(mode, conversations, turns, end)

    played = 0
    for turn in play_all(target, {mode: scenario(mode) for mode in modes}, oracle):
        played = played % (conversations * (turns + 1)) + 1
        if played > conversations * turns:
            yield Resumed(turn.scenario, turn, starts[turn.scenario])


def _held(mode: str, conversations: int, turns: int, end: Callable[[], None]) -> Play:
    """`turns` turns of every conversation, the end, and one more turn of each."""
    names = [f"{mode} {number}" for number in range(conversations)]
    held: dict[str, tuple[Message, ...]] = {}
    for number, name in enumerate(names):
        held[name] = ({"role": "system", "content": prose(name, SYSTEM_WORDS + number * MORE_WORDS)},)
    for number in range(turns):
        for name in names:
            asked = (*held[name], {"role": "user", "content": prose(f"{name} {number}", TURN_WORDS)})
            (answer,) = yield [Ask(name, asked, fields=WHOLE)]
            held[name] = (*asked, answer)
    end()
    for name in names:
        yield [Ask(name, (*held[name], {"role": "user", "content": prose(f"{name} again", LAST_WORDS)}), fields=WHOLE)]


def lines(found: Sequence[Resumed], min_cached: float, max_beyond_tokens: int) -> Iterator[str]:
    """The table that people read."""
    yield (
        f"{'ended by':<9} {'conversation':<12} {'prompt':>7} {'cached':>7} {'share':>7} {'necessary':>10} "
        f"{'prefilled':>10} {'beyond':>7} {'ratio':>7} {'start':>7}  verdict"
    )
    for one in found:
        turn = one.turn
        mark = "" if one.passes(min_cached, max_beyond_tokens) else "  <- not what it should be"
        yield (
            f"{one.mode:<9} {turn.session:<12} {turn.prompt:>7} {turn.cached:>7} {one.share:>7.1%} "
            f"{turn.necessary:>10} {turn.prefilled:>10} {one.beyond_tokens:>7} "
            f"{turn.prefilled / turn.necessary:>7.2f} {one.start_s:>5.1f} s  {turn.verdict or '-'}{mark}"
        )


def as_json(found: Sequence[Resumed], min_cached: float, max_beyond_tokens: int) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "min_cached": min_cached,
        "max_beyond_tokens": max_beyond_tokens,
        "passed": all(one.passes(min_cached, max_beyond_tokens) for one in found),
        "resumed": [
            {
                "mode": one.mode,
                "share": round(one.share, 4),
                "beyond_tokens": one.beyond_tokens,
                "start_s": round(one.start_s, 3),
                "passed": one.passes(min_cached, max_beyond_tokens),
                "turn": asdict(one.turn),
            }
            for one in found
        ],
    }

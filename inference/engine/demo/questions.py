"""Turns of small talk and of questions about mlxd, from the rows of questions.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from random import Random

from inference.engine.demo import words

Message = dict[str, object]


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing a user may want to know: what to think, what to answer, how it is asked."""

    thought: str
    answer: str
    phrasings: tuple[str, ...]

    @property
    def held_out(self) -> str:
        """The phrasing that no training dialogue uses."""
        return self.phrasings[-1]


_TABLE = tomllib.loads((Path(__file__).parent / "questions.toml").read_text())
INTENTS = {
    name: Intent(row["thought"], row["answer"], tuple(row["phrasings"])) for name, row in _TABLE["intents"].items()
}
UNKNOWN = Intent(_TABLE["unknown"]["thought"], _TABLE["unknown"]["answer"], tuple(_TABLE["unknown"]["phrasings"]))


def _typed(rng: Random, text: str) -> str:
    """The same question as people type it: case, end, politeness."""
    if rng.random() < 0.3:
        text = rng.choice(("Please: ", "hi, ", "Hey, ", "ok, ", "Question: ", "so ", "and ", "please ")) + text
    if rng.random() < 0.4:
        text = text.rstrip("?.") + rng.choice(("", "", "?", ".", " please", "!"))
    shape = rng.random()
    return text.capitalize() if shape < 0.3 else text.lower() if shape < 0.6 else text


def question_turn(rng: Random) -> list[Message]:
    """A question about mlxd or small talk."""
    intent = INTENTS[rng.choice(tuple(INTENTS))]
    return turn(_typed(rng, rng.choice(intent.phrasings[:-1])), intent.thought, intent.answer)


def unknown_turn(rng: Random) -> list[Message]:
    """A question that the model cannot answer."""
    text = rng.choice(UNKNOWN.phrasings).format(
        w=words.phrase(rng), x=words.invented_word(rng), f=words.path(rng), p=words.place(rng)
    )
    return turn(_typed(rng, text), UNKNOWN.thought, UNKNOWN.answer)


def echo_turn(rng: Random) -> list[Message]:
    """Say after me: the plainest form of copying from the prompt."""
    draw = rng.choice((words.phrase, words.place, words.path, words.command))
    text = draw(rng)
    how = rng.choice(("Repeat after me: {}", "Say {}", "say: {}", "Repeat {}", "Echo {}"))
    return turn(how.format(text), "I repeat it.", text)


def turn(question: str, thought: str, answer: str) -> list[Message]:
    """One user message and its answer."""
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "reasoning_content": thought, "content": answer},
    ]

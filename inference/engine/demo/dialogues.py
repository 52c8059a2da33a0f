"""Mixes turns into dialogues: the training data and its held-out questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from inference.engine.demo import questions, sums, tools, words

Message = dict[str, object]

# Share of each kind of last turn. Tools take the most tokens by far, sums the most practice.
KINDS = (("question", 24), ("sum", 42), ("tool", 30), ("echo", 3), ("unknown", 5))


@dataclass(frozen=True, slots=True)
class Dialogue:
    """What a chat template is rendered from. Only answers after the last user message are learned."""

    messages: list[Message]
    tools: list[tools.Tool] | None
    thinking: bool


def _turn(rng: Random, kind: str, offers: list[tools.Offer]) -> list[Message]:
    match kind:
        case "tool":
            return tools.tool_turn(rng, offers)
        case "sum":
            return sums.sum_turn(rng)
        case "echo":
            return questions.echo_turn(rng)
        case "unknown":
            return questions.unknown_turn(rng)
        case _:
            return questions.question_turn(rng)


def draw_kind(rng: Random) -> str:
    """The kind of a turn, by the shares of KINDS."""
    return rng.choices([kind for kind, _ in KINDS], [share for _, share in KINDS])[0]


def _without_thoughts(messages: list[Message]) -> list[Message]:
    return [{key: value for key, value in message.items() if key != "reasoning_content"} for message in messages]


def draw_dialogue(rng: Random) -> Dialogue:
    """One dialogue of one to three turns, some with a system prompt, some with tools that nobody needs."""
    kind = draw_kind(rng)
    offers = tools.draw_offers(rng) if kind == "tool" or rng.random() < 0.05 else []
    turns = [_turn(rng, kind, offers)]
    while rng.random() < 0.2 and len(turns) < 3:
        earlier = rng.choice(("question", "sum", "echo", "tool" if offers else "question"))
        turns.insert(0, _turn(rng, earlier, offers))
    messages = [message for turn in turns for message in turn]
    if rng.random() < 0.25:
        messages.insert(0, {"role": "system", "content": words.system_text(rng)})
    if len(turns) > 1 and rng.random() < 0.05:
        messages.insert(-len(turns[-1]), {"role": "system", "content": words.system_text(rng)})
    # Without a thought a sum of two digits must be guessed in one go: little is learned from many of them.
    thinking = rng.random() > (0.1 if kind == "sum" else 0.2)
    schemas = [offer.schema for offer in offers] or None
    return Dialogue(messages if thinking else _without_thoughts(messages), schemas, thinking)


def draw_dialogues(seed: int, count: int) -> Iterator[Dialogue]:
    """The same dialogues for the same seed."""
    rng = Random(seed)  # noqa: S311 (repeatable on purpose)
    for _ in range(count):
        yield draw_dialogue(rng)

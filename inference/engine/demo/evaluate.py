"""Measures the model on what it was not trained on: other sums, other cities, other phrasings."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import mlx.nn as nn
from mlx_lm import load, stream_generate
from mlx_lm.tokenizer_utils import TokenizerWrapper

from inference.engine.demo import questions, sums, tools, words

SEED = 4


@dataclass(frozen=True, slots=True)
class Demo:
    """The loaded model; answers greedily."""

    model: nn.Module
    tokenizer: TokenizerWrapper

    def answer(self, messages: list[dict[str, Any]], offered: list[Any] | None = None, *, thinking: bool = True) -> str:
        """The whole greedy answer, think block included, at most 120 tokens."""
        prompt = self.tokenizer.apply_chat_template(
            messages, tools=offered, add_generation_prompt=True, enable_thinking=thinking
        )
        return "".join(part.text for part in stream_generate(self.model, self.tokenizer, prompt, max_tokens=120))

    def ask(self, question: str, *, thinking: bool = True) -> str:
        """The greedy answer to one user message."""
        return self.answer([{"role": "user", "content": question}], thinking=thinking)


def load_demo(directory: Path) -> Demo:
    """Load with plain mlx_lm."""
    model, tokenizer = load(str(directory))[:2]
    return Demo(model, tokenizer)


def without_thought(answer: str) -> str:
    """The part after the think block."""
    return answer.rpartition("</think>")[2].strip()


def called(answer: str) -> dict[str, Any] | None:
    """The call in an answer, None where there is none or its JSON is broken."""
    found = re.search(r"<tool_call>\n(.*?)\n</tool_call>", answer, re.DOTALL)
    try:
        return json.loads(found[1]) if found else None
    except json.JSONDecodeError:
        return None


def sums_right(demo: Demo, count: int, *, thinking: bool = True) -> float:
    """Share of held-out sums whose last number is right."""
    rng, right = Random(SEED), 0  # noqa: S311
    for _ in range(count):
        a, op, b = sums.draw_pair(rng, test=True)
        answer = demo.ask(f"What is {a} {op} {b}?", thinking=thinking)
        right += without_thought(answer) == f"{a} {op} {b} = {sums.result(a, op, b)}."
    return right / count


def calls_right(demo: Demo, count: int) -> float:
    """Share of weather questions about held-out cities that call the right tool with the right argument."""
    rng, right = Random(SEED), 0  # noqa: S311
    for index in range(count):
        offers = [tools.make_offer(rng, family) for family in rng.sample(tools.FAMILIES[:5], 2)]
        offers[rng.randrange(2)] = offer = tools.make_offer(rng, tools.FAMILIES[0])
        if sum(one.family is offer.family for one in offers) == 2:
            offers = [offer]
        city = words.HELD_OUT_CITIES[index % len(words.HELD_OUT_CITIES)]
        asked = [{"role": "user", "content": f"What is the weather in {city}?"}]
        answer = demo.answer(asked, [one.schema for one in offers])
        right += called(answer) == {"name": offer.name, "arguments": {offer.param: city}}
    return right / count


def questions_right(demo: Demo) -> float:
    """Share of intents whose held-out phrasing gets exactly the intent's answer."""
    rows = questions.INTENTS.values()
    return sum(without_thought(demo.ask(row.held_out)) == row.answer for row in rows) / len(rows)


def measure(directory: Path) -> dict[str, float]:
    """All shares, each between 0 and 1."""
    demo = load_demo(directory)
    return {
        "sums": sums_right(demo, 100),
        "sums_without_thinking": sums_right(demo, 50, thinking=False),
        "calls": calls_right(demo, 40),
        "questions": questions_right(demo),
    }

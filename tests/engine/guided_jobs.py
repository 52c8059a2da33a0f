"""Jobs under toy grammars and thoughts with a budget, and what they must draw."""

from __future__ import annotations

from inference.params import SamplingParams
from inference.ports import Job, ThoughtSpan
from tests import tiny_models
from tests.engine.harness import job
from tests.engine.toy_grammar import CLOSER, CLOSING, OPENER, ToyGrammar, guided

PROMPT = tiny_models.prompt_ids(60)
UNMARKED = tuple(token for token in PROMPT if token >= 16)


def crowd() -> list[Job]:
    """Three free rows and three guided ones, in turn."""
    ids = [tiny_models.prompt_ids(40 + at, seed=at) for at in range(6)]
    hot, nucleus = SamplingParams(seed=3), SamplingParams(temperature=0.8, top_p=0.9, seed=4)
    strict = SamplingParams(temperature=1.1, top_k=20, min_p=0.01, seed=5, repetition_penalty=1.2)
    budget = ThoughtSpan(OPENER, CLOSER, open=True, budget_tokens=4, closing=CLOSING)
    return [
        job("free greedy", ids[0], max_tokens=16),
        guided(job("text greedy", ids[1], max_tokens=20), ToyGrammar(9, 9)),
        job("free hot", ids[2], sampling=hot, max_tokens=16),
        guided(job("text strict", ids[3], sampling=strict, max_tokens=20), ToyGrammar(6, 12, salt=5)),
        job("free nucleus", ids[4], sampling=nucleus, max_tokens=16),
        guided(job("thought and text", ids[5], sampling=hot, max_tokens=20), ToyGrammar(5, 5, salt=9), budget),
    ]

"""Rows under a JSON schema against free rows, at a vocabulary of 151,936, step by step in turn in one process.

The engine alone, without server and text. Three runners share the weights: all rows free, all of them constrained,
and half of them; each does a step, is waited for, and the next has its turn, so that noise meets all alike. Greedy
rows, because their own draw costs least and a mask shows most; sampled ones are reported.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.figure import Figure, Spread, at_most, report
from tests.benchmarks.large_vocabulary import large_vocabulary_model

ROWS = (1, 8)
STEPS = 8
ROUNDS = 5
WARM_STEPS = 3
LIMIT = 1.15
LIMIT_S = 150.0
THREADS = 2
"""Fewer make the model slower, and the masks a smaller part of it."""
SCHEMA = {
    "x-guidance": {"whitespace_flexible": False},
    "type": "array",
    "minItems": 60,
    "items": {
        "type": "object",
        "properties": {
            "path": {"type": "string", "maxLength": 40},
            "line": {"type": "integer"},
            "kind": {"enum": ["file", "directory", "link"]},
            "tags": {"type": "array", "items": {"type": "string", "maxLength": 12}, "maxItems": 4},
        },
        "required": ["path", "line", "kind", "tags"],
        "additionalProperties": False,
    },
}


def run() -> Iterator[Figure]:
    large_vocabulary_model()
    command = [sys.executable, "-m", "tests.benchmarks.constrained"]
    child = subprocess.run(
        command, env=machine.environment(THREADS), stdout=subprocess.PIPE, timeout=LIMIT_S, check=True, text=True
    )
    for line in child.stdout.splitlines():
        told = json.loads(line)
        free_s, guided_s, half_s = told["free_s"], told["guided_s"], told["half_s"]
        label = f"constrained, {told['rows']} rows{', sampled' * told['sampled']} ({THREADS} BLAS threads)"
        ratios = [guided / free for guided, free in zip(guided_s, free_s, strict=True)]
        detail = f"step free {_ms(free_s)}, constrained {_ms(guided_s)}, half of them {_ms(half_s)}"
        yield report(label, ratios, "x", detail) if told["sampled"] else at_most(label, ratios, LIMIT, detail)


def _ms(values: Sequence[float]) -> str:
    return f"{Spread.of(value * 1e3 for value in values)} ms"


# --- in the child ----------------------------------------------------------------------------------------------------


def main() -> None:
    from inference.engine.loader import MlxLoader
    from inference.engine.runner import MlxRunner
    from inference.engine.settings import EngineSettings
    from inference.ports import ModelRef

    ref = ModelRef("benchmark", large_vocabulary_model())
    loaded: Any = MlxLoader(EngineSettings()).load(ref)
    runners = [MlxRunner(loaded._model, loaded.limits, EngineSettings()) for _ in range(3)]
    guide = json_guide(ref)
    for rows, sampled in [*((rows, False) for rows in ROWS), (ROWS[-1], True)]:
        for runner, guided in zip(runners, (0, rows, (rows + 1) // 2), strict=True):
            begin(runner, [guide if at < guided else None for at in range(rows)], sampled)
        times_s = [[step_s(runner, rows) for runner in runners] for _ in range(WARM_STEPS + STEPS * ROUNDS)]
        rounds = [times_s[at : at + STEPS] for at in range(WARM_STEPS, len(times_s), STEPS)]
        free_s, guided_s, half_s = (
            [statistics.median(step[kind] for step in one) for one in rounds] for kind in range(len(runners))
        )
        told = {"rows": rows, "sampled": sampled, "free_s": free_s, "guided_s": guided_s, "half_s": half_s}
        print(json.dumps(told), flush=True)


def json_guide(ref: Any) -> Any:
    from inference.engine.grammar import LlgCompiler
    from inference.engine.text import load_text
    from inference.params import Grammar
    from inference.ports import Guide

    tokenizer: Any = load_text(ref.path).tokenizer
    compiler = LlgCompiler(lambda _ref: tokenizer)
    try:
        return Guide(compiler.compile(ref, Grammar(f"start: %json {json.dumps(SCHEMA)}", "benchmark")))
    finally:
        compiler.close()


def begin(runner: Any, guides: Sequence[Any], sampled: bool) -> None:
    """Ends what ran and brings new rows as far as decode."""
    from inference.params import SamplingParams
    from inference.ports import Job
    from inference.tokens import Prompt

    for at, guide in enumerate(guides):
        runner.cancel(f"row{at}")
        prompt = Prompt(tuple((104_729 * (at + 1) + 31 * place) % 150_000 for place in range(40)))
        sampling = SamplingParams(temperature=0.6, top_p=0.95, top_k=20, seed=at) if sampled else SamplingParams(0.0)
        runner.start(Job(f"row{at}", prompt, sampling, 10_000, guide=guide))
    while len(runner._lanes) < len(guides):
        runner.step()


def step_s(runner: Any, rows: int) -> float:
    """Seconds of a step and of what it left running."""
    import mlx.core as mx

    began_s = time.perf_counter()
    drawn = runner.step()
    mx.synchronize()
    assert len(drawn) == rows and not any(one.finish for one in drawn), "a row ended early"
    return time.perf_counter() - began_s


if __name__ == "__main__":
    main()

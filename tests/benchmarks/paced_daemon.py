"""`mlxd` over a scripted engine in which every row gets one token each `PACE_S` seconds, however many rows there are.

All rows are due at the same moment, as the rows of a real batch are: a thousand streams are then a thousand events at
once. Prompts are done as they come.

PACE='{"pace_s": 5, "ids": [97, 98]}' python -m tests.benchmarks.paced_daemon serve ...
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence

import mlxd.cli
import mlxd.daemon
from inference.engine.scripted import Script, ScriptedLoader, ScriptedRunner
from inference.ports import Job, ModelLimits, ModelRef, Prefilled, StepOutput

NAP_S = 0.02
"""How long a step without work lasts: a new row waits this long at most."""


class PacedRunner(ScriptedRunner):
    """Prefills every waiting row at once; decodes all others together each time the clock passes a multiple of pace."""

    def __init__(self, script: Script, pace_s: float) -> None:
        super().__init__(script)
        self._pace_s = pace_s
        self._beat = int(time.monotonic() / pace_s)

    def step(self) -> Sequence[StepOutput]:
        done: list[StepOutput] = []
        for row in self._rows.values():
            if not row.done_tokens:
                row.done_tokens = len(row.job.prompt)
                done.append(Prefilled(row.job.id, row.done_tokens, row.done_tokens, row.done_tokens))
        beat = int(time.monotonic() / self._pace_s)
        if beat > self._beat:
            self._beat = beat
            return [*done, *self._decode()]
        if not done:
            time.sleep(NAP_S)
        return done


class PacedLoader(ScriptedLoader):
    def __init__(self, script: Script, pace_s: float) -> None:
        super().__init__(script)
        self._pace_s = pace_s

    def load(self, model: ModelRef) -> ScriptedRunner:
        runner = PacedRunner(self._script, self._pace_s)
        self.runners.append(runner)
        return runner


def told(ids: Sequence[int], seed: int, position: int) -> int:
    """The token of a stream: it depends on who asked and on the position, so a lost or swapped one shows."""
    return ids[(7 * seed + 3 * position + seed // len(ids)) % len(ids)]


def main() -> None:
    pace = json.loads(os.environ["PACE"])
    ids = pace["ids"]

    def reply(job: Job, position: int) -> int:
        return told(ids, job.sampling.seed or 0, position)

    limits = ModelLimits(context_tokens=65_536, vocab_size=512, weights_bytes=1_000_000, kv_bytes_per_token=1_000)
    script = Script(reply=reply, limits=limits)
    mlxd.daemon.mlx_loader = lambda config, _bitwise_of: lambda: PacedLoader(script, pace["pace_s"])
    mlxd.cli.main()


if __name__ == "__main__":
    main()

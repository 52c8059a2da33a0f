"""Every setting, once: the fields of `Config` are the only place where a knob's name, type, default and range stand.

Command-line flags, environment variables, `mlxd config`, the documentation's table and the validating model are all
made from here. It imports neither pydantic nor Django nor MLX, so `mlxd --help` stays quick.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

from mlxd.config.knob import About, Knob, knob_of
from mlxd.config.knobs_answers import ANSWERS, SAMPLING, AnswerKnobs
from mlxd.config.knobs_engine import CACHE, ENGINE, EngineKnobs
from mlxd.config.knobs_models import ModelKnobs
from mlxd.config.knobs_serving import LIMITS, LISTEN, MODELS, QUEUE, ServingKnobs

STATE, LOGS = "State", "Logging"
GROUPS = (LISTEN, MODELS, ENGINE, CACHE, QUEUE, LIMITS, SAMPLING, ANSWERS, STATE, LOGS)


@dataclass(frozen=True, kw_only=True)
class Config(ServingKnobs, ModelKnobs, EngineKnobs, AnswerKnobs):
    """The settings of one process, validated by `mlxd.config.load`; units stand in the names.

    A `Config` made by hand (in a test) is not range-checked.
    """

    state_dir: Annotated[Path, About(STATE, "Where mlxd keeps its lock, keys, logs and databases; not read from .env.")]
    ledger: Annotated[
        bool, About(STATE, "Keep sessions, turns and figures in a database. Off: in memory, until mlxd ends.")
    ] = True
    retention_days: Annotated[
        float, About(STATE, "Days after which the database forgets a turn; 0 keeps all.", 0, 36500)
    ] = 7.0

    log_level: Annotated[Literal["debug", "info", "warning", "error"], About(LOGS, "Least severe line written.")] = (
        "info"
    )
    log_format: Annotated[Literal["text", "json"], About(LOGS, "Form of the lines on stderr and in the log file.")] = (
        "text"
    )
    debug: Annotated[
        int,
        About(
            LOGS,
            "0 off; 1 mlxd's own debug lines; 2 the libraries' too; 3 also tool calls, by name and size."
            " Prompts and answers are never logged.",
            0,
            3,
        ),
    ] = 0

    @property
    def resident_models(self) -> int:
        """How many models stay in memory: every one that was named on the command line fits."""
        return max(self.max_models, len(self.models) + self.demo)

    def sampling_defaults(self) -> dict[str, float | int]:
        """The sampling values this configuration sets, by `SamplingParams` name plus `max_tokens`.

        A name that is absent is the model's to decide. Explicit knobs win over the profile.
        """
        chosen: dict[str, float | int] = dict(SEED_SAMPLING) if self.sampling_profile == "seed" else {}
        for name in SAMPLING_NAMES:
            value = getattr(self, name)
            if value is not None:
                chosen[name] = value
        return chosen


SEED_SAMPLING: dict[str, float | int] = {
    "temperature": 0.1,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.08,
    "penalty_context_tokens": 256,
    "max_tokens": 2048,
}
SAMPLING_NAMES = (*SEED_SAMPLING, "presence_penalty", "frequency_penalty")


def _knobs() -> tuple[Knob, ...]:
    """In the order of their groups, and as they are written within one."""
    hints = get_type_hints(Config, include_extras=True)
    knobs = (knob_of(field, hints[field.name]) for field in dataclasses.fields(Config))
    return tuple(sorted(knobs, key=lambda knob: GROUPS.index(knob.about.group)))


KNOBS = _knobs()
BY_NAME = {knob.name: knob for knob in KNOBS}
BY_ENV = {knob.env: knob for knob in KNOBS}

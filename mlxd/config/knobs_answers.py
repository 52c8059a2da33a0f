"""The settings of what answers are like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mlxd.config.knob import About

SAMPLING, ANSWERS = "Sampling defaults", "Answers"
FROM_MODEL = "Unset: the model's generation_config, else {}."


@dataclass(frozen=True, kw_only=True)
class AnswerKnobs:
    """How tokens are drawn, and how the text they make is told."""

    sampling_profile: Annotated[
        Literal["model", "seed"],
        About(
            SAMPLING,
            "`model`: the model's own defaults. `seed`: temperature 0.1, top_p 0.9, top_k 40, min_p 0.05,"
            " repetition_penalty 1.08 over 256 tokens, max_tokens 2048.",
        ),
    ] = "model"
    temperature: Annotated[float | None, About(SAMPLING, FROM_MODEL.format("1"), 0, 2)] = None
    top_p: Annotated[float | None, About(SAMPLING, FROM_MODEL.format("1 (off)"), 0, 1)] = None
    top_k: Annotated[int | None, About(SAMPLING, FROM_MODEL.format("0 (off)"), 0, 1_000_000)] = None
    min_p: Annotated[float | None, About(SAMPLING, FROM_MODEL.format("0 (off)"), 0, 1)] = None
    repetition_penalty: Annotated[float | None, About(SAMPLING, FROM_MODEL.format("1 (off)"), 0.01, 10)] = None
    presence_penalty: Annotated[float | None, About(SAMPLING, FROM_MODEL.format("0 (off)"), -2, 2)] = None
    frequency_penalty: Annotated[float | None, About(SAMPLING, FROM_MODEL.format("0 (off)"), -2, 2)] = None
    penalty_context_tokens: Annotated[
        int | None, About(SAMPLING, "Tokens the three penalties look back over. Unset: 256.", 0, 16_777_216)
    ] = None
    max_tokens: Annotated[
        int | None, About(SAMPLING, "Longest answer when a request names none. Unset: the room left.", 1, 16_777_216)
    ] = None
    default_thinking: Annotated[
        bool, About(SAMPLING, "Let models that can reason do so unless a request says otherwise.")
    ] = True
    preserve_thinking: Annotated[
        bool,
        About(SAMPLING, "Keep reasoning of past turns in the prompt where the template can and no request objects."),
    ] = True

    reasoning: Annotated[
        Literal["auto", "prefilled", "off"],
        About(
            ANSWERS,
            "Thinking apart from content. `auto`: by the model's think tags and where its prompt ends."
            " `prefilled`: answers begin mid-thought unless the prompt says otherwise. `off`: tags stay text.",
        ),
    ] = "auto"
    strip_thinking: Annotated[
        bool, About(ANSWERS, "Leave `reasoning_content` out of answers; its tokens are counted all the same.")
    ] = False
    volatile: Annotated[
        Literal["bind", "omit", "verbatim"],
        About(
            ANSWERS,
            "Text that drifts in prompts. `bind`: telemetry is left out, and what a conversation's model has read of"
            " dates, message ids and the like stays as it was, changes told at the end. `omit`: telemetry only."
            " `verbatim`: every prompt is read as it was sent. The answer's X-Mlxd-Volatile header says what was done.",
        ),
    ] = "bind"
    volatile_models: Annotated[
        tuple[str, ...],
        About(ANSWERS, "The same for one model: ID=POLICY, its id as /v1/models lists it.", flag="volatile-model"),
    ] = ()
    keep_tools: Annotated[
        bool,
        About(
            ANSWERS,
            "Where a request without tools goes on from one that had some (a client that compacts its history), leave"
            " them in the prompt, which stays warm, and let the model call none. With `bind` only; the answer's"
            " X-Mlxd-Volatile header says so.",
        ),
    ] = False
    content_check_every: Annotated[
        int,
        About(
            ANSWERS,
            "One request in so many has its prompt searched for all that it said, beside its answer. 0: none.",
            0,
            1_000_000,
        ),
    ] = 64
    tool_call_format: Annotated[
        str, About(ANSWERS, "Dialect of tool calls, e.g. `hermes` or `pythonic`. `auto`: what the chat template shows.")
    ] = "auto"

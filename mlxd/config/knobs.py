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

LISTEN, MODELS, ENGINE, CACHE, QUEUE, LIMITS, SAMPLING, ANSWERS, STATE, LOGS = (
    "Listening",
    "Models",
    "Engine",
    "Prefix cache",
    "Queue and time limits",
    "Connection limits",
    "Sampling defaults",
    "Answers",
    "State",
    "Logging",
)
GROUPS = (LISTEN, MODELS, ENGINE, CACHE, QUEUE, LIMITS, SAMPLING, ANSWERS, STATE, LOGS)
KIB, MIB, GIB = 1024, 1024**2, 1024**3
FROM_MODEL = "Unset: the model's generation_config, else {}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one process, validated by `mlxd.config.load`; units stand in the names.

    A `Config` made by hand (in a test) is not range-checked.
    """

    host: Annotated[
        str, About(LISTEN, "Address to listen on. Only loopback addresses are accepted until API keys exist.")
    ] = "127.0.0.1"
    port: Annotated[int, About(LISTEN, "TCP port; 0 takes any free one.", 0, 65535)] = 8080
    allowed_hosts: Annotated[
        tuple[str, ...],
        About(LISTEN, "More names a Host header may carry, besides the loopback names.", flag="allowed-host"),
    ] = ()
    allowed_origins: Annotated[
        tuple[str, ...],
        About(LISTEN, "Web origins (scheme://host:port) that may call the API from a browser.", flag="allowed-origin"),
    ] = ()

    models: Annotated[
        tuple[str, ...],
        About(
            MODELS,
            "Model to serve: a DIRECTORY, a Hugging Face REPO (owner/name), or NAME=either to choose its id.",
            flag="model",
            short="m",
        ),
    ] = ()
    demo: Annotated[bool, About(MODELS, "Serve the small demo model that comes with mlxd.")] = False
    max_models: Annotated[
        int, About(MODELS, "Models kept in memory at once; several --model flags raise it to their number.", 1, 64)
    ] = 1
    strict_models: Annotated[
        bool, About(MODELS, "Refuse a request that names an unknown model even when only one model is served.")
    ] = False
    hf_endpoint: Annotated[
        str, About(MODELS, "Where `serve --model REPO` downloads from; the HF_ENDPOINT variable is not consulted.")
    ] = "https://huggingface.co"

    max_batch: Annotated[int, About(ENGINE, "Most answers generated at the same time.", 1, 4096)] = 8
    prefill_step_tokens: Annotated[
        int,
        About(
            ENGINE,
            "Prompt tokens computed between two decode steps, rounded up to blocks of 256; less is smoother.",
            1,
            65536,
        ),
    ] = 512
    max_context_tokens: Annotated[
        int, About(ENGINE, "Longest prompt plus answer; 0 is whatever the model can hold.", 0, 16_777_216)
    ] = 0
    memory_limit_bytes: Annotated[
        int, About(ENGINE, "Memory for weights and KV; 0 is a share of the machine's.", 0, 1 << 50)
    ] = 0

    cache_memory_bytes: Annotated[
        int | None,
        About(
            CACHE,
            "Memory for conversations' computed prefixes, as far as models and running answers leave it;"
            " 0 keeps nothing. `auto`: a third of the memory limit.",
            0,
            1 << 50,
        ),
    ] = None
    cache_snapshot_memory_bytes: Annotated[
        int | None,
        About(
            CACHE, "Memory for the states of recurrent layers. `auto`: a quarter of `cache_memory_bytes`.", 0, 1 << 50
        ),
    ] = None
    cache_side_memory_bytes: Annotated[
        int | None,
        About(
            CACHE,
            "Memory for titles and other one-shots, which never push out a conversation. `auto`: a sixteenth of"
            " `cache_memory_bytes`.",
            0,
            1 << 50,
        ),
    ] = None
    ssd_cache_bytes: Annotated[
        int | None,
        About(
            CACHE,
            "Disk space for computed prefixes, which then survive a restart; 0 writes none. `auto`: a tenth of what the"
            " disk has free, at most 20 GiB.",
            0,
            1 << 50,
        ),
    ] = None
    ssd_cache_daily_bytes: Annotated[
        int, About(CACHE, "Most that is written to the disk in a day, to spare it; 0 is no limit.", 0, 1 << 50)
    ] = 64 * GIB
    cache_ttl_s: Annotated[float, About(CACHE, "What nobody used for so long is dropped; 0 is never.", 0, 1e9)] = 0.0
    cache_idle_s: Annotated[
        float, About(CACHE, "What only one session holds goes when it is silent for so long; 0 is never.", 0, 1e9)
    ] = 0.0
    cache_max_sessions: Annotated[
        int, About(CACHE, "Sessions kept; above it the least recently used goes. 0 is no limit.", 0, 1_000_000)
    ] = 0
    cache_max_entries_per_session: Annotated[
        int, About(CACHE, "Branches kept of one session; above it the oldest goes. 0 is no limit.", 0, 1_000_000)
    ] = 0
    cache_max_conversation_tokens: Annotated[
        int, About(CACHE, "What is deeper in a conversation is not kept; 0 is no limit.", 0, 16_777_216)
    ] = 0
    cache_min_reuse_tokens: Annotated[
        int, About(CACHE, "A shorter beginning in common is computed again.", 1, 16_777_216)
    ] = 1
    healing_turns: Annotated[
        int,
        About(
            CACHE,
            "Answers remembered by their tokens, so that they continue what is stored when a client sends them back. 0:"
            " every answer is read as it was sent.",
            0,
            1_000_000,
        ),
    ] = 2000
    reuse: Annotated[
        Literal["token", "bitwise"],
        About(
            CACHE,
            "`token`: up to the last common token; equal to a cold run but for rounding. `bitwise`: whole blocks of 256"
            " computed in prefill only, on the CPU equal in every bit.",
        ),
    ] = "token"

    queue_size: Annotated[int, About(QUEUE, "Requests that may wait; the next one is answered 503.", 0, 65536)] = 64
    queue_size_per_key: Annotated[int, About(QUEUE, "Requests one client may have waiting.", 1, 65536)] = 8
    queue_timeout_s: Annotated[float, About(QUEUE, "Longest wait in the queue.", 0.1, 86400)] = 300.0
    drain_s: Annotated[
        float, About(QUEUE, "Time running answers get to finish after SIGTERM (launchd kills at 20).", 0, 3600)
    ] = 15.0
    watchdog_s: Annotated[
        float, About(QUEUE, "Without progress for this long the engine counts as hung.", 1, 86400)
    ] = 60.0
    generation_deadline_s: Annotated[
        float, About(QUEUE, "Wall-clock limit of one answer, which then ends with `length`; 0 is none.", 0, 86400)
    ] = 0.0
    keepalive_s: Annotated[
        float, About(QUEUE, "A silent stream gets a comment line this often, so that clients do not give up.", 0.1, 600)
    ] = 5.0

    max_body_bytes: Annotated[
        int, About(LIMITS, "Largest request body; larger ones are answered 413.", KIB, 1 << 40)
    ] = 32 * MIB
    max_connections: Annotated[int, About(LIMITS, "Open connections in all.", 1, 65536)] = 512
    max_connections_per_address: Annotated[int, About(LIMITS, "Open connections from one address.", 1, 65536)] = 64
    slow_reader_s: Annotated[
        float, About(LIMITS, "A client that reads nothing for this long is disconnected.", 1, 3600)
    ] = 30.0

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
    hints = get_type_hints(Config, include_extras=True)
    return tuple(knob_of(field, hints[field.name]) for field in dataclasses.fields(Config))


KNOBS = _knobs()
BY_NAME = {knob.name: knob for knob in KNOBS}
BY_ENV = {knob.env: knob for knob in KNOBS}

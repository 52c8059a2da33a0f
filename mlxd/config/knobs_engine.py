"""The settings of the engine and of what is kept of its work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from mlxd.config.knob import About

ENGINE, CACHE = "Engine", "Prefix cache"
GIB = 1024**3


@dataclass(frozen=True, kw_only=True)
class EngineKnobs:
    """How much is computed at a time, and how much of it stays."""

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
    prewarm: Annotated[
        tuple[str, ...],
        About(
            CACHE,
            "Files whose system prompt is computed when nothing else is to be done, and stays in memory: its text, or a"
            " chat request (JSON) with its tools.",
        ),
    ] = ()
    audit_every: Annotated[
        int,
        About(
            CACHE,
            "One warm request in so many is computed once more from nothing when there is nothing else to do, and what"
            " is stored is dropped where the two differ. 0: none.",
            0,
            1_000_000,
        ),
    ] = 64
    reuse: Annotated[
        Literal["token", "bitwise"],
        About(
            CACHE,
            "`token`: up to the last common token; equal to a cold run but for rounding. `bitwise`: whole blocks of 256"
            " computed in prefill only, on the CPU equal in every bit.",
        ),
    ] = "token"

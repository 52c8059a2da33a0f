"""What the settings of other local servers are called here, for people who come from one of them.

`mlxd doctor` looks for these variables in the environment, and the documentation's table is held equal to this one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SeedName:
    """One variable or flag elsewhere. `ours` is a knob's name, "" where there is none; `why` says what to know."""

    name: str
    ours: str = ""
    why: str = ""


BY_BYTES = "Bytes, not entries: a prefix that many share is kept once."
GRID = "None: blocks have 256 tokens, and a match may end inside of one."
KV_BY_REQUEST = "By request: `kv_bits`, `kv_group_size`, `quantized_kv_start`; such answers are not batched."
NOT_YET_VISION = "Not yet: this version serves text models."
ANY_KEY = "None: it belongs to the client. Any value works, unless `require_key` is on: then one of `mlxd keys add`."
NO_PROXY = "None: mlxd serves the public API itself, on `port`; there is no proxy in front."

VARIABLES = (
    SeedName("MODEL_PATH", "models", "A directory or a repository, as before."),
    SeedName("MODEL_FAMILY", why="None: templates and parsers are chosen by the model's own files."),
    SeedName("PROXY_MODEL_ID", "models", "`--model NAME=SOURCE` chooses the id clients see."),
    SeedName("MLX_HOST", "host"),
    SeedName("MLX_PORT", "port"),
    SeedName("PROXY_PORT", "port", NO_PROXY),
    SeedName("PROXY_STARTUP_WAIT_SECONDS", why=f"{NO_PROXY} `/health/ready` says when the model is loaded."),
    SeedName("MAX_KV_SIZE", "max_context_tokens", "A longer prompt is refused with both numbers."),
    SeedName("KV_BITS", why=KV_BY_REQUEST),
    SeedName("KV_GROUP_SIZE", why=KV_BY_REQUEST),
    SeedName("KV_QUANT_SCHEME", why=KV_BY_REQUEST),
    SeedName("QUANTIZED_KV_START", why=KV_BY_REQUEST),
    SeedName("PROMPT_CACHE_MAX_ENTRIES_GLOBAL", "cache_memory_bytes", BY_BYTES),
    SeedName("PROMPT_CACHE_MAX_ENTRIES_PER_SESSION", "cache_max_entries_per_session", "Unlimited unless set."),
    SeedName("PROMPT_CACHE_TTL_SECONDS", "cache_ttl_s", "Never unless set: budgets in bytes decide."),
    SeedName("PROMPT_CACHE_SESSION_MAX_IDLE_SECONDS", "cache_idle_s", "As above."),
    SeedName("PROMPT_CACHE_BLOCK_SIZE", why=GRID),
    SeedName("CACHE_USE_BLOCK_INDEX", why="None: blocks are always found by their tokens."),
    SeedName(
        "CACHE_CANONICALIZE_TOOL_CONTEXT",
        "volatile",
        "`bind` keeps what the model has read of a conversation as it was, and states changes at the end.",
    ),
    SeedName("CACHE_VLM_IMAGE_IDENTITY", why=NOT_YET_VISION),
    SeedName("CACHE_SESSION_PARTITIONING", why="None: it had no effect where it comes from."),
    SeedName("CACHE_NORM_SAFETY_CHECK", why="Always on: a rule that would take too much of a prompt is refused."),
    SeedName("NORMALIZE_WRITE_TOOL_CONTENT_FOR_PROMPT", why="None: it changes what the model reads."),
    SeedName("DEFAULT_TEMPERATURE", "temperature", "Or `sampling_profile` seed for the whole table."),
    SeedName("DEFAULT_TOP_P", "top_p", "As above."),
    SeedName("DEFAULT_TOP_K", "top_k", "As above."),
    SeedName("DEFAULT_MIN_P", "min_p", "As above."),
    SeedName("DEFAULT_REPETITION_PENALTY", "repetition_penalty", "As above; 1 (off) unless the model says otherwise."),
    SeedName("DEFAULT_REPETITION_CONTEXT_SIZE", "penalty_context_tokens", "As above."),
    SeedName("DEFAULT_MAX_TOKENS", "max_tokens", "Unset is the room left in the context, not 2048."),
    SeedName("DEFAULT_THINKING", "default_thinking"),
    SeedName("PRESERVE_THINKING", "preserve_thinking"),
    SeedName(
        "GENERATION_WATCHDOG_SECONDS",
        "generation_deadline_s",
        "Off by default. `watchdog_s` is another thing: it watches progress, not the clock.",
    ),
    SeedName("ENABLE_REQUEST_LOGGING", "log_level", "One line per request at `info`; never prompts or answers."),
    SeedName("LOG_ROOT", "state_dir", "Logs lie in its `logs` folder."),
    SeedName("VLM_CACHE_DEBUG", "debug", f"For images: {NOT_YET_VISION}"),
    SeedName("ANYCLAUDE_MODE", why="None: it belongs to the client. `mlx-lm` mode works with mlxd."),
    SeedName("MLX_LM_URL", why="None: it belongs to the client. Set it to `http://127.0.0.1:8080/v1`."),
    SeedName("MLX_LM_API_KEY", why=ANY_KEY),
    SeedName("MLX_LM_MODEL", why="None: it belongs to the client. `current-model` means the first model served."),
    SeedName("ANYCLAUDE_DEBUG", "debug", "The same three depths; 3 shows tool calls by name and size."),
    SeedName("MLX_CACHE_BLOCK_SIZE", why=GRID),
    SeedName("MLX_CACHE_MAX_SLOTS", "cache_max_sessions", "Answers at the same time: `max_batch`."),
    SeedName("MLX_CACHE_MIN_REUSE", "cache_min_reuse_tokens", "1 unless set: every common token counts."),
    SeedName(
        "MLX_CACHE_MAX_TOKENS", "cache_max_conversation_tokens", "Of one conversation; the whole is measured in bytes."
    ),
    SeedName("MLX_MODEL_CACHE_SIZE", "max_models"),
    SeedName("MLX_MODEL_CACHE_TTL", "model_ttl_s", "Same meaning; 0 is never."),
    SeedName("MLX_PREFILL_STEP_SIZE", "prefill_step_tokens", "512 by default, so that running answers stay smooth."),
    SeedName("MLX_KV_BITS", why=KV_BY_REQUEST),
    SeedName("ANTHROPIC_BASE_URL", why="Not yet: this version speaks the OpenAI dialect."),
    SeedName("ANTHROPIC_API_KEY", why="Not yet: this version speaks the OpenAI dialect."),
    SeedName(
        "OPENAI_BASE_URL", why="None: it belongs to the client. Set it to `http://127.0.0.1:8080/v1`, with `/v1`."
    ),
    SeedName("OPENAI_API_KEY", why=ANY_KEY),
)

FLAGS = (
    SeedName("-m / --model", "models"),
    SeedName("--host", "host"),
    SeedName("--port", "port"),
    SeedName("-V / --vision", why=NOT_YET_VISION),
    SeedName("--strip-thinking", "strip_thinking", "Same meaning, streamed and not."),
    SeedName("--enable-prefix-caching", "cache_memory_bytes", "On by default; 0 switches it off."),
    SeedName("--prompt-cache-dir", "state_dir", "Computed prefixes lie in its `prefixes` folder."),
    SeedName("--conversation-kv-max-tokens", "cache_max_conversation_tokens"),
    SeedName("--conversation-snapshots", "cache_snapshot_memory_bytes", "On by default, where a model needs them."),
    SeedName("--conversation-disk-max-gb", "ssd_cache_bytes", "With a unit: `20GiB`."),
    SeedName("--max-slots", "max_batch"),
    SeedName("--tool-call-format", "tool_call_format", "Same meaning; `xml_function` is one of the names."),
    SeedName(
        "--reasoning", "reasoning", "Same three words. `auto` also finds out whether an answer begins mid-thought."
    ),
    SeedName("--model-cache-size", "max_models"),
    SeedName("--kv-bits", why=KV_BY_REQUEST),
    SeedName("infer -p", why="`mlxd chat -p`."),
    SeedName("infer --base-url", why="`mlxd chat --base-url`."),
    SeedName("infer -v", why="`mlxd chat -v`."),
    SeedName("infer --max_new_tokens", why="`mlxd chat --max-new-tokens`; the underscores work too."),
)

FILES = (
    SeedName(".env in the working directory", "state_dir", "Only the `.env` in the state directory is read."),
    SeedName("model_aliases.json", "model_aliases", "`--model-alias ALIAS=MODEL` for each."),
    SeedName("claude_routing.json", why="Not yet: this version speaks the OpenAI dialect."),
)

CLIENTS_OWN = frozenset({"ANTHROPIC_BASE_URL", "ANTHROPIC_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY"}) | {
    name.name for name in VARIABLES if "belongs to the client" in name.why
}
"""Set for a client, so not worth a word to somebody who starts a server."""

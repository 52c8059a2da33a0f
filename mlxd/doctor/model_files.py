"""Models: can the configured ones be loaded, and does each one here fit in memory?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.engine.left_unread import foreign_files
from inference.engine.model_files import weight_files
from inference.engine.model_json import read_object
from inference.errors import InvalidModel, ModelError
from mlxd.catalog import LocalModel, find_local, local_models
from mlxd.config import model_argument
from mlxd.doctor.findings import Finding, Scene, fail, ok, warn
from mlxd.doctor.machine import GIB, memory_bytes

USABLE_SHARE = 0.75
"""macOS lets the GPU wire about three quarters of the memory."""
ROOMY_SHARE = 0.8
TRIAL_TOKENS = 32768
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tiktoken.model")


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model's config says about it. `kv_bytes_per_token` is 0 where the config does not tell."""

    context_tokens: int
    vision: bool
    kv_bytes_per_token: int


def read_shape(path: Path) -> Shape:
    """Reads config.json; what is absent is 0 or False. Raises nothing for a damaged file."""
    try:
        config = read_object(path / "config.json")
    except InvalidModel:
        config = {}
    inner = config.get("text_config")
    text = config | inner if isinstance(inner, dict) else config
    vision = any(key in config for key in ("vision_config", "vision_tower", "mm_vision_tower"))
    return Shape(_number(text, "max_position_embeddings"), vision, _kv_bytes(text))


def _kv_bytes(text: dict[str, Any]) -> int:
    """Two bytes each for the keys and values of every attention layer; linear layers keep none."""
    heads = _number(text, "num_key_value_heads") or _number(text, "num_attention_heads")
    size = _number(text, "head_dim")
    if not size and _number(text, "num_attention_heads"):
        size = _number(text, "hidden_size") // _number(text, "num_attention_heads")
    kinds = text.get("layer_types")
    layers = len([kind for kind in kinds if "linear" not in str(kind)]) if isinstance(kinds, list) else 0
    return 2 * 2 * heads * size * (layers or _number(text, "num_hidden_layers"))


def _number(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def configured_models(scene: Scene) -> Finding:
    """Each `--model` is here and whole: config, tokenizer, every weight file its index names."""
    troubles = [text for model in scene.config.models if (text := _trouble(model))]
    if troubles:
        return fail(
            "models",
            f"{'; '.join(troubles)}.",
            "Start `mlxd serve --model` with the repository's name to fetch it again.",
        )
    if not scene.config.models and not scene.config.demo:
        return ok("models", "none configured; `mlxd serve --demo` needs no download")
    return ok("models", "the configured models are here and whole")


def _trouble(text: str) -> str:
    source = model_argument(text).source
    path = find_local(source)
    if path is None:
        return f"{source[:100]} is not on this machine"
    if not (path / "config.json").is_file():
        return f"{source[:100]} has no config.json"
    if not any((path / name).is_file() for name in TOKENIZERS):
        return f"{source[:100]} has no tokenizer"
    try:
        missing = [name for name in weight_files(path) if not (path / name).is_file()]
    except ModelError as error:
        return f"{source[:100]}: {error.message.removesuffix('.')}"
    if missing:
        return f"{source[:100]} lacks {', '.join(missing[:3])}"
    return "" if any(path.glob("*.safetensors")) else f"{source[:100]} has no safetensors weights"


def came_with_code(scene: Scene) -> Finding:
    """Whether a model of this machine brought Python files or pickles. mlxd never reads them; another tool may."""
    came = [model.id for model in _all_models(scene) if foreign_files(model.path)]
    if not came:
        return ok("model code", "no model here brought code or pickled data along")
    more = f" and {len(came) - 5} more" if len(came) > 5 else ""
    what = f"{', '.join(came[:5])}{more} brought code or pickled data along, which mlxd never runs or opens."
    return warn("model code", what, "`mlxd models` names the files; remove them, for other programs may use them.")


def fits(scene: Scene, models: Iterable[LocalModel] | None = None, total_bytes: int | None = None) -> Finding:
    """Whether each model here fits, with the KV of one long conversation, before anybody loads it."""
    total = total_bytes if total_bytes is not None else memory_bytes()
    usable = scene.config.memory_limit_bytes or int(total * USABLE_SHARE)
    known = list(models if models is not None else _all_models(scene))
    if not known:
        return ok("fit", "no models on this machine yet")
    verdicts = [f"{model.id}: {_verdict(model, usable)}" for model in known]
    what = f"{usable / GIB:.0f} GiB usable. {'. '.join(verdicts)}"
    if any("does not fit" in verdict for verdict in verdicts):
        cure = "Take 4-bit weights, a smaller model, or a lower --max-context-tokens; keep --max-models at 1."
        return warn("fit", what, cure)
    return ok("fit", what)


def _all_models(scene: Scene) -> Iterable[LocalModel]:
    from mlxd.catalog.local import read_model

    named = [(model_argument(text), find_local(model_argument(text).source)) for text in scene.config.models]
    chosen = [read_model(argument.name or argument.source, path) for argument, path in named if path]
    paths = {model.path for model in chosen if model}
    return [*(model for model in chosen if model), *(model for model in local_models() if model.path not in paths)]


def _verdict(model: LocalModel, usable_bytes: int) -> str:
    shape = read_shape(model.path)
    tokens = min(shape.context_tokens or TRIAL_TOKENS, TRIAL_TOKENS)
    kv = shape.kv_bytes_per_token * tokens
    need = f"{model.size_bytes / GIB:.1f} GiB + {kv / GIB:.1f} GiB for {tokens:,} tokens"
    if model.size_bytes + kv > usable_bytes:
        return f"does not fit ({need})"
    return f"{'fits' if model.size_bytes + kv < usable_bytes * ROOMY_SHARE else 'fits, barely'} ({need})"

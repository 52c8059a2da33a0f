"""Directory -> running model: checks, then an estimate, then the weights.

Checks read a few headers and refuse in milliseconds. The estimate is exact and costs no device memory: the model is
built lazily, so that shapes and types of weights and KV are known while nothing is evaluated. No code, pickle or
tokenizer of the model is touched.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from inference.cache.disk_thread import DiskThread
from inference.cache.disk_tier import DiskTier
from inference.cache.keeper import StoreKeeper
from inference.cache.limits import limits_of
from inference.cache.prefix_cache import PrefixCache
from inference.cache.reuse import ReuseMode
from inference.engine import kv, memory
from inference.engine.disk import disk_store
from inference.engine.fingerprint import fingerprint
from inference.engine.left_unread import left_unread, points_at_code
from inference.engine.mlx_lm_door import get_total_parameters, has_architecture, load_model, make_prompt_cache
from inference.engine.model_config import context_tokens, read_config
from inference.engine.model_files import check_model_files
from inference.engine.proof import proof
from inference.engine.runner import MlxRunner
from inference.engine.settings import GRID_TOKENS, CacheSettings, DiskSettings, EngineSettings
from inference.engine.store import ModelStore
from inference.errors import InferenceError, InvalidModel, MemoryPressure, ModelTooLarge, UnsafeModel
from inference.params import KVQuantisation
from inference.ports import DeviceMemory, ModelLimits, ModelRef, ModelRunner
from inference.prefix_store import PrefixStore

log = logging.getLogger(__name__)
GROUP_SIZES = (32, 64, 128)
"""Values with one scale, as MLX can quantise them."""
COST_UNIT_PARAMETERS = 1e9
"""A token costs two operations for each parameter; what counts is one model beside another."""
_ACTIVATION_COPIES = 12
"""Hidden-sized arrays of one piece alive at once in a layer (inputs, projections, gates), generously."""
_LOGIT_COPIES = 6
"""Logits, log-probabilities of two steps, their tempered and sorted forms, noise."""


class MlxLoader:
    """Implements `ports.ModelLoader`. Made and used on the worker thread."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        memory.release_streams_with_thread()
        self._limit_bytes = memory.limit_device(settings)
        self._cache = None
        if settings.cache.enabled:
            disk = None if settings.disk is None else disk_tier(settings.disk, settings.cache.ttl_s)
            self._cache = prefix_cache(settings.cache, self._limit_bytes, disk)
        self._keeper = (
            None if self._cache is None else StoreKeeper(self._cache, mx.clear_cache, proof, self._limit_bytes)
        )

    @property
    def store(self) -> PrefixStore | None:
        return self._keeper

    def load(self, model: ModelRef) -> ModelRunner:
        """Besides `ModelError`, raises `MemoryPressure` when it would fit were the other loaded models gone."""
        config = read_config(model.path)
        files = check_model_files(model.path)
        refuse_foreign_code(config)
        if unread := left_unread(model.path):
            log.warning(
                "model %s came with code or pickled data, none of which is used: %s", model.id, ", ".join(unread[:8])
            )
        self._require_fit(files.weights_bytes, weights_bytes=files.weights_bytes)
        failure: str | None = None
        try:
            return self._build(model, config)
        except InferenceError:
            memory.release_unused()
            raise
        except Exception as error:
            log.warning("model %s cannot be built: %s", model.id, type(error).__name__)
            failure = type(error).__name__
        # Out of the except block: the traceback held every array of the attempt.
        memory.release_unused()
        raise InvalidModel(f"The model cannot be built from its config.json and weights ({failure}).")

    def memory(self) -> DeviceMemory:
        return memory.read_device(self._limit_bytes)

    def release_unused(self) -> None:
        memory.release_unused()

    def _build(self, model: ModelRef, config: dict[str, Any]) -> ModelRunner:
        built, _ = load_model(model.path, lazy=True, strict=True, trust_remote_code=False)
        mx.eval(mx.random.state)  # each layer split the key for its first weights; that chain would stay (32 KB)
        limits = measure(built, config, self._settings.max_batch)
        row_tokens = min(self._settings.min_context_tokens, limits.context_tokens)
        needed = limits.weights_bytes + limits.row_bytes(row_tokens) + limits.workspace_bytes
        self._require_fit(needed, weights_bytes=limits.weights_bytes)
        self._require_free(needed, model.id)
        mx.eval(built.parameters())
        return MlxRunner(built, limits, self._settings, self._store_of(model, built, limits))

    def _store_of(self, model: ModelRef, built: Any, limits: ModelLimits) -> ModelStore | None:
        """What is computed survives an unload: its blocks are found again by the fingerprint of the files."""
        tried = self._try_out(built)
        if self._cache is None:
            return None
        return ModelStore(
            self._cache,
            model.id,
            fingerprint(model.path),
            lambda: make_prompt_cache(built),
            tried,
            ReuseMode.BITWISE if self._is_bitwise(model.id) else ReuseMode.TOKEN,
            max(1, limits.parameters) / COST_UNIT_PARAMETERS,
        )

    def _is_bitwise(self, model_id: str) -> bool:
        own = self._settings.bitwise_of(model_id)
        return self._settings.cache.bitwise if own is None else own

    def _require_fit(self, needed_bytes: int, *, weights_bytes: int) -> None:
        if needed_bytes > self._limit_bytes:
            needs = f"{_mib(needed_bytes)} (weights {_mib(weights_bytes)})"
            raise ModelTooLarge(f"The model needs {needs} and {_mib(self._limit_bytes)} may be used.")

    def _require_free(self, needed_bytes: int, model_id: str) -> None:
        """Weights come before what is stored, even before what running rows stand on: that costs time, not answers."""
        free_bytes = max(0, self._limit_bytes - mx.get_active_memory())
        if needed_bytes > free_bytes and self._keeper is not None:
            self._keeper.free(needed_bytes - free_bytes, model_id, locked=True)
            memory.release_unused()
            free_bytes = max(0, self._limit_bytes - mx.get_active_memory())
        if needed_bytes > free_bytes:
            raise MemoryPressure(f"The model needs {_mib(needed_bytes)} and {_mib(free_bytes)} are free now.")

    @staticmethod
    def _try_out(model: Any) -> kv.KVState:
        """One real step, so that a model that cannot run fails here and not in the first request. Its state."""
        state: kv.KVState = make_prompt_cache(model)
        logits = model(mx.array([[0]]), cache=state)
        kv.wait(state, logits)
        return state


def refuse_foreign_code(config: dict[str, Any]) -> None:
    """A model that only the code beside it can build is refused; where mlx-lm has the architecture it is not needed."""
    key = points_at_code(config)
    if key and not has_architecture(config):
        model_type = config["model_type"]
        raise UnsafeModel(f"config.json: {key} points at code for {model_type!r}, which is never run.")


def disk_tier(settings: DiskSettings, ttl_s: float = 0.0) -> DiskTier:
    """The disk, at work: its thread first learns what an earlier process left, while models are loaded."""
    thread = DiskThread(disk_store(settings, ttl_s), prepare=memory.release_streams_with_thread)
    thread.start()
    return DiskTier(thread, time.monotonic)


def prefix_cache(settings: CacheSettings, limit_bytes: int, disk: DiskTier | None = None) -> PrefixCache:
    """An empty one, its budgets taken from the device where they are not set."""
    return PrefixCache(limits_of(settings, limit_bytes), time.monotonic, disk)


def measure(model: Any, config: dict[str, Any], max_batch: int) -> ModelLimits:
    """What admission must know, from shapes alone: nothing is evaluated."""
    state = make_prompt_cache(model)
    logits = model(mx.array([[0]]), cache=state)
    vocabulary = int(logits.shape[-1])
    weights = [array for _, array in tree_flatten(model.parameters())]
    per_token, fixed = kv.row_cost(state, GRID_TOKENS)
    return ModelLimits(
        context_tokens=context_tokens(config),
        vocab_size=vocabulary,
        weights_bytes=sum(array.nbytes for array in weights),
        kv_bytes_per_token=per_token,
        kv_fixed_bytes=fixed,
        kv_group_sizes=_kv_group_sizes(model),
        workspace_bytes=_workspace_bytes(config, vocabulary, max_batch),
        parameters=int(get_total_parameters(model)),
        architecture=str(config["model_type"]),
    )


def _kv_group_sizes(model: Any) -> tuple[int, ...]:
    """The group sizes in which this model's KV can be quantised, found by trying: attention has to take part in it."""
    found = []
    for group_size in GROUP_SIZES:
        state = make_prompt_cache(model)
        if not kv.can_quantise(state):
            return ()
        kv.quantise(state, KVQuantisation(bits=8, group_size=group_size))
        if _takes(model, state):
            found.append(group_size)
    return tuple(found)


def _takes(model: Any, state: kv.KVState) -> bool:
    """Whether the model's code can be run on this state, by shapes alone."""
    try:
        for ids in ([[0, 0]], [[0]]):
            model(mx.array(ids), cache=state)
    # As wide as that: any architecture's own code meets entries it may not have been written for. MLX raises ValueError
    # for a size it cannot quantise; code that takes keys for one array fails as Python would. All that is asked is
    # whether it goes, and what is wrong with the model itself has been told: it has just run on entries of its own.
    except Exception as error:
        log.debug("attention takes no quantised entries: %s", type(error).__name__)
        return False
    return True


def _workspace_bytes(config: dict[str, Any], vocabulary: int, max_batch: int) -> int:
    """Float32 activations of one 256-token piece, and logits with their filtered copies for a full batch.

    Attention scores are not in it: Metal and CUDA never hold them whole.
    """
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    width = sum(size for key in ("hidden_size", "intermediate_size") if isinstance(size := text.get(key), int))
    return 4 * (GRID_TOKENS * width * _ACTIVATION_COPIES + max_batch * vocabulary * _LOGIT_COPIES)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"

"""The settings of a running process: which may change while it runs, what was changed, and that it stays so.

A change is checked as a whole before anything of it is kept; what is kept is on the disk before it holds. A flag of the
command line comes before what was saved, at the next start; until then the later word counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from inference.engine.settings import CacheSettings
from inference.scheduler import PoolRules, SchedulerSettings
from mlxd.config import BY_NAME, Config, is_model_name
from mlxd.config.knobs import SAMPLING_NAMES
from mlxd.config.load import LoadedConfig, Origin, amended
from mlxd.model_settings import ModelSettings
from mlxd.saved_settings import SavedSettings, read_saved, write_saved
from mlxd.served import ServedModel
from mlxd.start_errors import InvalidSetting

STORE: Final = frozenset(
    (
        *("cache_memory_bytes", "cache_snapshot_memory_bytes", "cache_side_memory_bytes"),
        *("cache_ttl_s", "cache_idle_s", "cache_max_sessions", "cache_max_entries_per_session"),
        *("cache_max_conversation_tokens", "cache_min_reuse_tokens"),
    )
)
"""The limits of the prefix cache in memory, where there is one."""
DISK: Final = frozenset(("ssd_cache_bytes", "ssd_cache_daily_bytes"))
"""Those of its disk, where there is one. To begin or end with it takes a restart."""
LIVE: Final = (
    STORE
    | DISK
    | frozenset(
        (
            *("max_models", "model_ttl_s", "pinned_models", "model_aliases", "default_model", "strict_models"),
            *("sampling_profile", *SAMPLING_NAMES),
            *("default_thinking", "preserve_thinking", "strip_thinking", "volatile", "volatile_models"),
            *("keep_tools", "keepalive_s"),
            *("queue_size", "queue_size_per_key", "queue_timeout_s", "generation_deadline_s"),
        )
    )
)
"""Knobs that take effect at once. All others are read when the process starts."""


class LiveSettings:
    """`config` is what holds now. Without a `path` nothing outlives the process.

    Used on the event loop; who changes something holds `changing` until it holds everywhere.
    """

    def __init__(self, loaded: LoadedConfig, path: Path | None = None) -> None:
        self._path = path
        self._saved = read_saved(path) if path is not None else SavedSettings()
        self._beneath = loaded.beneath or loaded
        self._origins = dict(loaded.origins)
        self._stores = loaded.config.cache_memory_bytes != 0
        self._disk_bytes = loaded.config.ssd_cache_bytes
        self.config = loaded.config
        self.changing = asyncio.Lock()

    @classmethod
    def alone(cls, config: Config) -> LiveSettings:
        """Of a process that keeps nothing."""
        return cls(LoadedConfig(config, dict.fromkeys(BY_NAME, Origin.DEFAULT)))

    @property
    def disk_bytes(self) -> int | None:
        """What the disk's cache is held to, None for a part of the disk. Taking back what was saved over a 0 leaves it
        as it is: that 0 holds from the next start on, for in a running process it would empty the disk."""
        return self._disk_bytes

    def origin(self, name: str) -> Origin:
        return self._origins[name]

    def model(self, model_id: str, config: Config | None = None) -> ModelSettings:
        """What was saved for a model, with the aliases that the settings of the process give it, or those of
        `config`."""
        saved = ModelSettings.of(self._saved.models.get(model_id, {}))
        aliases = dict.fromkeys((*aliases_of(config or self.config, model_id), *saved.aliases))
        return replace(saved, aliases=tuple(aliases))

    def settled(self, models: Iterable[ServedModel], config: Config | None = None) -> tuple[ServedModel, ...]:
        """Models with what each is set to, or would be with `config`."""
        return tuple(replace(model, settings=self.model(model.id, config)) for model in models)

    def tried(self, changes: Mapping[str, Any]) -> Config:
        """What the settings would be. A null is the value there was before anybody saved one.

        Raises `InvalidSetting` and changes nothing.
        """
        for name, value in changes.items():
            if name not in BY_NAME:
                raise InvalidSetting(f"There is no setting {name[:64]!r}.")
            if name not in LIVE:
                raise InvalidSetting(
                    f"{name} is read at start only; set it by {BY_NAME[name].flag} or {BY_NAME[name].env}."
                )
            if not BY_NAME[name].takes(value):
                raise InvalidSetting(f"{name} must be {BY_NAME[name].json_text}.")
            if value is None:  # taken back also where it keeps another from being changed
                continue
            if name in STORE | DISK and not self._stores:
                raise InvalidSetting(f"{name}: mlxd was started with cache_memory_bytes 0 and keeps nothing.")
            if name in DISK and self._disk_bytes == 0:
                raise InvalidSetting(f"{name}: mlxd was started with ssd_cache_bytes 0 and writes nothing.")
        beneath = self._beneath.config
        values = {name: getattr(beneath, name) if value is None else value for name, value in changes.items()}
        config = amended(self.config, values)
        if changes.get("cache_memory_bytes") is not None and config.cache_memory_bytes == 0:
            raise InvalidSetting("cache_memory_bytes 0 takes a restart: then nothing is kept at all.")
        if changes.get("ssd_cache_bytes") is not None and config.ssd_cache_bytes == 0:
            raise InvalidSetting("ssd_cache_bytes 0 takes a restart: it leaves what is on the disk as it is.")
        return config

    def change(self, changes: Mapping[str, Any]) -> Config:
        """Keeps changes that were tried. Raises `InvalidSetting`, `UnsafeStateDir`; then all is as it was."""
        config = self.tried(changes)
        kept = {name: value for name, value in self._saved.knobs.items() if name not in changes}
        kept |= {name: _plain(getattr(config, name)) for name, value in changes.items() if value is not None}
        self._save(replace(self._saved, knobs=kept))
        for name, value in changes.items():
            self._origins[name] = Origin.SAVED if value is not None else self._beneath.origins[name]
        if config.ssd_cache_bytes != 0 and self._disk_bytes != 0:
            self._disk_bytes = config.ssd_cache_bytes
        self.config = config
        return config

    def change_model(self, model_id: str, settings: ModelSettings) -> None:
        """Keeps a model's own settings. Raises `UnsafeStateDir`; then all is as it was."""
        others = {name: values for name, values in self._saved.models.items() if name != model_id}
        values = settings.as_dict()
        self._save(replace(self._saved, models={**others, model_id: values} if values else others))

    def bitwise_of(self, model_id: str) -> bool | None:
        """Whether a model's prefixes are to be reused bit by bit; None: as those of all. From any thread."""
        reuse = self._saved.models.get(model_id, {}).get("reuse")
        return None if reuse is None else reuse == "bitwise"

    def rules(self, models: Iterable[ServedModel]) -> PoolRules:
        """Who of the models that are served may stay in memory."""
        config, models = self.config, tuple(models)
        most = config.max_models if self._origins["max_models"] is Origin.SAVED else config.resident_models
        pinned = frozenset(model.id for model in models if self._pins(model))
        ttl_of = {model.id: ttl_s for model in models if (ttl_s := model.settings.ttl_s) is not None}
        return PoolRules(most, config.model_ttl_s, pinned, ttl_of)

    def _pins(self, model: ServedModel) -> bool:
        own = model.settings.pinned
        return any(map(model.answers_to, self.config.pinned_models)) if own is None else own

    def _save(self, saved: SavedSettings) -> None:
        if self._path is not None:
            write_saved(self._path, saved)
        self._saved = saved


def cache_settings(config: Config) -> CacheSettings:
    """What the store of prefixes is told at the start, and of which it takes the limits again on a change."""
    return CacheSettings(
        memory_bytes=config.cache_memory_bytes,
        snapshot_memory_bytes=config.cache_snapshot_memory_bytes,
        side_memory_bytes=config.cache_side_memory_bytes,
        ttl_s=config.cache_ttl_s,
        idle_s=config.cache_idle_s,
        max_sessions=config.cache_max_sessions,
        max_entries_per_session=config.cache_max_entries_per_session,
        max_conversation_tokens=config.cache_max_conversation_tokens,
        min_reuse_tokens=config.cache_min_reuse_tokens,
        bitwise=config.reuse == "bitwise",
        audit_every=config.audit_every,
    )


def scheduler_settings(config: Config) -> SchedulerSettings:
    """What the scheduler is told at the start, and of which it takes the limits of the queue again on a change."""
    return SchedulerSettings(
        max_batch=config.max_batch,
        max_models=config.resident_models,
        max_queue=config.queue_size,
        max_queue_per_client=config.queue_size_per_key,
        queue_deadline_s=config.queue_timeout_s,
        generation_deadline_s=config.generation_deadline_s or None,
        watchdog_s=config.watchdog_s,
    )


def aliases_of(config: Config, model_id: str) -> tuple[str, ...]:
    """What `model_aliases` calls a model. Raises `InvalidSetting` for one that says nothing."""
    pairs = [text.partition("=") for text in config.model_aliases]
    for alias, _, model in pairs:
        if not is_model_name(alias) or not model:
            raise InvalidSetting(f"--model-alias {alias[:64]!r} is not ALIAS=MODEL, in letters, digits and ._:@+-/.")
    return tuple(alias for alias, _, model in pairs if model_id in (model, model.rpartition("/")[2]))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

"""The models clients may name, by whatever name they know them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from inference.errors import ModelNotFound
from inference.ports import ModelRef
from mlxd.config import is_model_name
from mlxd.model_settings import ModelSettings

PLACEHOLDERS = frozenset({"default", "current-model", "current", "local", "local-model", "mlxd"})
"""Names that clients send when they do not care; they mean the default model."""

MAX_PATH_CHARS = 1024


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model clients may name. `created_s` (Unix seconds) does not change over restarts.

    `settings` are its own: they come before those of all models.
    """

    id: str
    path: Path
    created_s: int
    settings: ModelSettings = field(default_factory=ModelSettings)

    @property
    def ref(self) -> ModelRef:
        return ModelRef(self.id, self.path)

    def answers_to(self, name: str) -> bool:
        """To its id, an alias, and its id behind a provider's name or the path of a directory."""
        return name in (self.id, *self.settings.aliases) or (name.rpartition("/")[2] == self.id and _is_straight(name))


def _is_straight(name: str) -> bool:
    """Whether each part of a name goes down: a path that turns back or to somebody's home is nobody's name."""
    parts = name.removeprefix("/").split("/")
    return len(name) <= MAX_PATH_CHARS and not any(part in ("", ".", "..") or part.startswith("~") for part in parts)


def served_models(named: Sequence[tuple[str, Path]]) -> tuple[ServedModel, ...]:
    """Models to serve from (id, directory) pairs, in order; the first is the default."""
    return tuple(ServedModel(model_id, path, int((path / "config.json").stat().st_mtime)) for model_id, path in named)


def named(models: Sequence[ServedModel], name: str) -> ServedModel | None:
    """The model of exactly this name; an id comes before what else a model answers to."""
    exact = (model for model in models if model.id == name)
    return next(exact, None) or next((model for model in models if model.answers_to(name)), None)


def resolved(
    models: Sequence[ServedModel],
    name: str | None,
    resident: Collection[str],
    *,
    default: str = "",
    strict: bool = False,
) -> ServedModel:
    """The model a request names. `resident` are the ids of those in memory.

    Without `strict` the only model answers to any sane name. Raises `ModelNotFound`.
    """
    if not models:
        raise ModelNotFound("No model is served. Start mlxd with --model or --demo.", param="model")
    if name is not None and (found := named(models, name)) is not None:
        return found
    if name is None or name in PLACEHOLDERS:
        return default_of(models, resident, default)
    if is_model_name(name) and len(models) == 1 and not strict:
        return models[0]
    raise unknown(name)


def unknown(name: str | None) -> ModelNotFound:
    """For a name that is nobody's, and for one that is not the caller's to use: which of both is not told, and who else
    is served is only told to those who may use them."""
    if name is None:
        return ModelNotFound("Name a model: GET /v1/models lists those there are for you.", param="model")
    return ModelNotFound(
        f"There is no model {name[:64]!r} here. GET /v1/models lists those there are for you.", param="model"
    )


def clash(model: ServedModel, models: Sequence[ServedModel]) -> str | None:
    """What is wrong where an alias of a model is a name of another, or the other way round; in words."""
    for other in models:
        for one, held in ((model, other), (other, model)) if other.id != model.id else ():
            for alias in filter(held.answers_to, one.settings.aliases):
                return f"{alias[:64]!r} cannot mean both {one.id} and {held.id}."
    return None


def default_of(models: Sequence[ServedModel], resident: Collection[str], default: str = "") -> ServedModel:
    """Who answers when a request names nobody: the one that is set, else the first in memory, else the first."""
    chosen = named(models, default) if default else None
    return chosen or next((model for model in models if model.id in resident), models[0])

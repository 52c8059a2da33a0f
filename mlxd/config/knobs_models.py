"""The settings of the models that may be named beside those of the command line, and of who stays in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mlxd.config.knob import About
from mlxd.config.knobs_serving import MODELS


@dataclass(frozen=True, kw_only=True)
class ModelKnobs:
    """What an admin may load, what models are called, and who leaves memory when."""

    model_roots: Annotated[
        tuple[str, ...],
        About(MODELS, "A directory of model directories that an admin may load while mlxd runs.", flag="model-root"),
    ] = ()
    model_aliases: Annotated[
        tuple[str, ...], About(MODELS, "One more name of a model, as ALIAS=MODEL.", flag="model-alias")
    ] = ()
    default_model: Annotated[
        str, About(MODELS, "Who answers a request that names no model; unset: the first that is in memory.")
    ] = ""
    pinned_models: Annotated[
        tuple[str, ...],
        About(MODELS, "A model that, once loaded, leaves memory only when an admin unloads it.", flag="pin"),
    ] = ()
    model_ttl_s: Annotated[
        float, About(MODELS, "A model that nobody used for so long leaves memory; 0 is never.", 0, 1e9)
    ] = 0.0

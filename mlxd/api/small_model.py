"""A word to those who give tools to a model that is too small for them."""

from __future__ import annotations

from typing import Final

import structlog

from inference.engine.demo import DEMO_MODEL_ID
from mlxd.runtime import Runtime

SMALL_PARAMETERS: Final = 8_000_000_000
HEADER: Final = "X-Mlxd-Warning"
WARNING: Final = "models below 8B parameters often call tools that do not exist or with wrong arguments"

events = structlog.get_logger(__name__)
_told: set[str] = set()


def warning(running: Runtime, model_id: str) -> str | None:
    """What to say when tools go to this model, logged once for each model; None where it is large enough.

    Nothing is said of a model that is not loaded, and of the demo model, which is what it is.
    """
    parameters = running.parameters(model_id)
    if model_id == DEMO_MODEL_ID or not 0 < parameters < SMALL_PARAMETERS:
        return None
    if model_id not in _told:
        _told.add(model_id)
        events.warning("tools for a small model", model=model_id, parameters=parameters)
    return WARNING

"""What clients may send, as strict types with ranges. Plain pydantic models: nested in ninja's they cost 3-4 times."""

from mlxd.api.schemas.chat import ChatRequest
from mlxd.api.schemas.completions import CompletionRequest
from mlxd.api.schemas.generation import GenerationRequest

__all__ = ["ChatRequest", "CompletionRequest", "GenerationRequest"]

"""Every error the core raises: one tree, a stable `code` each, translated to HTTP once, at the edge.

InferenceError
├── RequestError            the request is wrong; the same request will be refused again
│   ├── InvalidParameter        a field is out of range or contradicts another
│   ├── UnsupportedParameter    a field this server understands and does not offer
│   ├── PromptTooLong           the prompt leaves no room for one token
│   ├── ModelNotFound
│   ├── ModelHasNoVision
│   └── TemplateFailed          the model's chat template cannot render these messages
├── BusyError               right request, wrong moment; retry later
│   ├── QueueFull · QueueTimeout · Draining · ModelLoading · MemoryPressure
├── ModelError              a model that cannot be served; retrying does not help
│   ├── InvalidModel · UnsafeModel · ModelTooLarge
└── EngineError             the server's fault
    ├── GenerationFailed        this request only; the engine lives on
    ├── GenerationStalled       the watchdog ended it
    └── EngineFatal             the engine's state is unsafe and is rebuilt
"""

from __future__ import annotations


class InferenceError(Exception):
    """Root of the tree.

    `message` is safe to show a client: it names the field, rule or limit and never holds prompt text, a path or a
    traceback. `param` is the JSON path of the field at fault, where there is one.
    """

    code = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross the border of the preparing process, so they must survive pickling with their `param`."""
        return (_rebuild, (type(self), self.message, self.param, dict(self.__dict__)))


def _rebuild(cls: type[InferenceError], message: str, param: str | None, state: dict[str, object]) -> InferenceError:
    error = cls.__new__(cls)
    InferenceError.__init__(error, message, param=param)
    error.__dict__.update(state)
    return error


class RequestError(InferenceError):
    code = "invalid_request"


class InvalidParameter(RequestError):
    code = "invalid_value"


class UnsupportedParameter(RequestError):
    code = "unsupported_parameter"


class PromptTooLong(RequestError):
    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, context_tokens: int, *, estimated: bool = False) -> None:
        about = "about " if estimated else ""
        super().__init__(
            f"The prompt has {about}{prompt_tokens} tokens and the model's context is {context_tokens} tokens; "
            "at least one must be left for the answer.",
            param="messages",
        )
        self.prompt_tokens = prompt_tokens
        self.context_tokens = context_tokens


class ModelNotFound(RequestError):
    code = "model_not_found"


class ModelHasNoVision(RequestError):
    code = "model_has_no_vision"


class TemplateFailed(RequestError):
    code = "template_failed"


class BusyError(InferenceError):
    """`retry_after_s` is whole seconds, 1 to 30, from queue depth and recent service time."""

    code = "busy"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, min(30, retry_after_s))


class QueueFull(BusyError):
    code = "queue_full"


class QueueTimeout(BusyError):
    code = "queue_timeout"


class Draining(BusyError):
    code = "draining"


class ModelLoading(BusyError):
    code = "model_loading"


class MemoryPressure(BusyError):
    code = "memory_pressure"


class ModelError(InferenceError):
    code = "invalid_model"


class InvalidModel(ModelError):
    code = "invalid_model"


class UnsafeModel(ModelError):
    code = "unsafe_model"


class ModelTooLarge(ModelError):
    """Weights, or weights and what one request needs beside them, are more than may ever be held."""

    code = "model_too_large"


class EngineError(InferenceError):
    code = "engine_error"


class GenerationFailed(EngineError):
    code = "generation_failed"


class GenerationStalled(EngineError):
    code = "generation_stalled"


class EngineFatal(EngineError):
    code = "engine_fatal"

"""A streamed answer: chunks as server-sent events. Sans I/O; the consumer sends what this gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from inference.events import Event
from mlxd.api.chunks import Reducer
from mlxd.api.errors import in_stream
from mlxd.api.wire import dump

PING: Final = b": ping\n\n"
"""A comment: every SSE parser drops it, every idle timer hears it."""

_DONE: Final = b"data: [DONE]\n\n"


class EventStream:
    """One answer's frames. `failed` says that the last frame was an error, so the stream may not end cleanly."""

    def __init__(self, reducer: Reducer, path: str, request_id: str) -> None:
        self._reducer = reducer
        self._path = path
        self._request_id = request_id

    @property
    def done(self) -> bool:
        return self._reducer.done

    @property
    def failed(self) -> bool:
        return self._reducer.error is not None

    def frames(self, events: Sequence[Event]) -> bytes:
        """All frames of one batch, as one piece to send; b"" when the batch says nothing to a client."""
        chunks = self._reducer.feed(events)
        sent = b"".join(b"data: %b\n\n" % dump(chunk) for chunk in chunks)
        if self._reducer.error is not None:
            return sent + self.error_frame(self._reducer.error)
        return sent + _DONE if self._reducer.done else sent

    def error_frame(self, error: BaseException) -> bytes:
        return in_stream(error, self._path, self._request_id)

"""Logging: one line per event, as text or JSON, on stderr and in a file that keeps its own size in check.

What a line may hold is decided in `mlxd.log_line`, not at the call. Nobody who logs waits for the place it goes to, and
of one kind of trouble ten lines a second are written, and then how many more there were.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from mlxd import log_line
from mlxd.log_outlet import FLUSH_S, Lane, LogFile, Stream
from mlxd.log_rate import LineRate

FILE_BYTES, FILES_KEPT = 10 * 1024 * 1024, 5
OURS = ("mlxd", "inference", "dashboard")
BUSY = 503
"""Not now: while a model loads, or the queue is full. The client is told so, and nothing is wrong."""
SILENCED = {"django.request": logging.ERROR, "django.server": logging.ERROR, "py.warnings": logging.ERROR}
"""Loggers that would say again what the request line says, or what only a developer can act on."""

_depth = 0


def configure(
    *,
    level: str = "info",
    form: Literal["text", "json"] = "text",
    debug: int = 0,
    directory: Path | None = None,
    stream: TextIO | None = None,
) -> None:
    """Sets up this process. `directory` gets `mlxd.log` (10 MB, five old ones kept), where it is not None.

    `debug` 1 adds our own debug lines, 2 the libraries' info lines, 3 one line per tool call. Call it once, in the
    command that serves; calling it again replaces what it did.
    """
    global _depth  # noqa: PLW0603 - one per process, like the root logger
    _depth = debug
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            log_line.as_json if form == "json" else log_line.as_text,
        ],
        foreign_pre_chain=[log_line.first_line, *log_line.PROCESSORS],
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    outlet = Outlet(stream or sys.stderr, directory)
    outlet.setFormatter(formatter)
    root.addHandler(outlet)
    _set_levels(logging.DEBUG if debug else logging.getLevelNamesMapping()[level.upper()], debug)
    logging.raiseExceptions = False  # a full disk must not print the failed line, with its arguments, to stderr
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            outlet.drop_excess,
            *log_line.PROCESSORS,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _set_levels(level: int, debug: int) -> None:
    logging.getLogger().setLevel(logging.INFO if debug >= 2 else logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for name, least in SILENCED.items():
        logging.getLogger(name).setLevel(logging.NOTSET if debug >= 2 else least)
    logging.getLogger("django.request").addFilter(_brings_an_exception)
    logging.captureWarnings(True)


def _brings_an_exception(record: logging.LogRecord) -> bool:
    """A status alone is told by the request line; what nobody caught is told by this logger only."""
    return record.exc_info is not None


def reopen() -> None:
    """Opens the log file anew at the next line; for SIGHUP, after somebody else has moved it."""
    for output in logging.getLogger().handlers:
        if isinstance(output, Outlet):
            output.reopen()


def depth() -> int:
    """The debug depth, 0 to 3, for code that would have to work to make a line."""
    return _depth


@contextmanager
def request_context(request_id: str) -> Iterator[None]:
    """Every line logged inside (and in tasks started inside) carries the request's id."""
    with structlog.contextvars.bound_contextvars(request_id=request_id):
        yield


def log_request(
    *,
    method: str,
    route: str,
    status: int,
    duration_ms: float,
    model: str | None = None,
    stream: bool | None = None,
    prompt_tokens: int | None = None,
    cached_tokens: int | None = None,
    lost_tokens: int | None = None,
    verdict: str | None = None,
    stable_prefix_msg_count: int | None = None,
    omitted_spans: int | None = None,
    pinned_spans: int | None = None,
    restated_spans: int | None = None,
    relocated_spans: int | None = None,
    retained_spans: int | None = None,
    refused_rules: str | None = None,
    conv: str | None = None,
    completion_tokens: int | None = None,
    queue_ms: float | None = None,
    ttft_ms: float | None = None,
    decode_tps: float | None = None,
    finish_reason: str | None = None,
    error: str | None = None,
    key_id: str | None = None,
) -> None:
    """The one line of a request. `route` is the template (`/v1/models/{id}`), never the path a client sent.

    `verdict` says why no more of the prompt was reused, `lost_tokens` how many were computed again, `conv` names the
    conversation by a digest. `omitted_spans` and the like count what became of drifting text (`span_ledger.Fate`),
    `refused_rules` matched too much of it. `status` 499 is a client that went away; `error` is a code, `key_id` 8 hex
    digits of a key's digest.
    """
    facts = {name: value for name, value in locals().items() if value is not None}
    rounded = {name: round(value, 1) if isinstance(value, float) else value for name, value in facts.items()}
    level = logging.ERROR if status >= 500 and status != BUSY else logging.INFO
    structlog.get_logger("mlxd.request").log(level, "request", **rounded)


def log_tool_call(name: str, arguments_bytes: int) -> None:
    """That the model called a tool: its name and how long the arguments were, at debug depth 3 only."""
    if _depth >= 3:
        structlog.get_logger("mlxd.tools").debug("tool call", tool=name, arguments_bytes=arguments_bytes)


def log_uncaught() -> None:
    """Exceptions nobody caught are logged like the others, instead of printed with their message."""
    sys.excepthook = _log_uncaught

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)

    threading.excepthook = in_thread


def _log_uncaught(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, where)
        return
    structlog.get_logger("mlxd").critical("uncaught exception", exc_info=(kind, error, where))


class Outlet(logging.Handler):
    """Formats a line where it is logged, and hands it to the threads that write it."""

    def __init__(self, stream: TextIO | None, directory: Path | None) -> None:
        super().__init__()
        self._rate = LineRate(_tell_left_out)
        self._lanes = [Lane(Stream(stream), _tell_dropped("stderr"))]
        self._file: LogFile | None = None
        if directory is not None:
            self._file = LogFile(directory / "mlxd.log", most_bytes=FILE_BYTES, kept=FILES_KEPT)
            self._lanes.append(Lane(self._file, _tell_dropped("mlxd.log")))

    def emit(self, record: logging.LogRecord) -> None:
        """Never blocks. Our own records have passed `drop_excess` before they were made."""
        if isinstance(record.msg, dict) or self._rate.admits((record.name, record.levelno, str(record.msg)[:200])):
            try:
                line = self.format(record)
            except Exception:
                self.handleError(record)
                return
            for lane in self._lanes:
                lane.put(line)

    def drop_excess(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        """A step of structlog's: ends a line of which there were too many of its kind within this second.

        A request that was answered is one of its own: those are as many as there was work.
        """
        status = event.get("status")
        if isinstance(status, int) and status < 400:
            return event
        if not self._rate.admits((logger.name, method, event.get("event"), status, event.get("error"))):
            raise structlog.DropEvent
        return event

    def reopen(self) -> None:
        if self._file is not None:
            self._file.reopen()

    def flush(self) -> None:
        """Waits a second for what was logged to be written."""
        for lane in self._lanes:
            lane.flush(FLUSH_S)

    def close(self) -> None:
        for lane in self._lanes:
            lane.close()
        super().close()


def _tell_left_out(kind: Hashable, count: int) -> None:
    name, _, event, *_ = kind if isinstance(kind, tuple) else ("", "", kind)
    structlog.get_logger("mlxd.log").warning("lines_left_out", like=event, source=name, count=count)


def _tell_dropped(place: str) -> Callable[[int], None]:
    """What had no room, told once there is some."""
    return lambda count: structlog.get_logger("mlxd.log").warning("lines_dropped", place=place, count=count)

"""Logging: one line per event, as text or JSON, on stderr and in a file that keeps its own size in check.

What a line may hold is decided in `mlxd.log_line`, not at the call.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TextIO

import structlog

from mlxd import log_line

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
    outputs: list[logging.Handler] = [logging.StreamHandler(stream or sys.stderr)]
    if directory is not None:
        outputs.append(PrivateLogFile(directory / "mlxd.log"))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for output in outputs:
        output.setFormatter(formatter)
        root.addHandler(output)
    _set_levels(logging.DEBUG if debug else logging.getLevelNamesMapping()[level.upper()], debug)
    logging.raiseExceptions = False  # a full disk must not print the failed line, with its arguments, to stderr
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
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
        if isinstance(output, PrivateLogFile):
            output.let_go()


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


class PrivateLogFile(RotatingFileHandler):
    """A log file only we can read. The writer rotates it, so its size holds without any other process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        super().__init__(path, maxBytes=FILE_BYTES, backupCount=FILES_KEPT, encoding="utf-8", delay=True)

    def let_go(self) -> None:
        with self.lock or nullcontext():
            stream, self.stream = self.stream, None  # None until the next line opens it
            if stream is not None:
                stream.close()

    def _open(self) -> Any:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.baseFilename, flags, 0o600)
        return os.fdopen(descriptor, "a", encoding=self.encoding)

"""Log lines: one per event, never forged, never a secret, never a prompt."""

import asyncio
import io
import json
import logging
import stat
import sys
import threading
import warnings

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from inference.conversation.span_ledger import Entry, Fate, SpanLedger
from mlxd import log, log_line
from mlxd.api import drift

CANARY = "canary7f3a"


class Written(io.StringIO):
    """Text that another thread writes: whoever reads it reads all that was logged before."""

    def getvalue(self):
        flush()
        return super().getvalue()


def flush():
    for output in logging.getLogger().handlers:
        output.flush()


@pytest.fixture
def lines(monkeypatch):
    """Configures JSON logging into a buffer and returns a function that gives the lines so far, parsed."""
    monkeypatch.setattr(log, "FLUSH_S", 60.0)  # the thread that writes may get no processor for a second
    root, hooks = logging.getLogger(), (sys.excepthook, threading.excepthook)
    before = root.handlers[:], root.level
    for old in before[0]:
        root.removeHandler(old)  # pytest's own, which must not be closed
    buffer = Written()

    def start(**options):
        log.configure(**{"form": "json", "stream": buffer} | options)
        return lambda: [json.loads(line) for line in buffer.getvalue().splitlines()]

    start.buffer = buffer
    yield start
    for output in root.handlers[:]:
        root.removeHandler(output)
        output.close()
    for old in before[0]:
        root.addHandler(old)
    root.setLevel(before[1])
    sys.excepthook, threading.excepthook = hooks
    for name in (*log.OURS, *log.SILENCED):
        logging.getLogger(name).setLevel(logging.NOTSET)
    logging.captureWarnings(False)
    logging.raiseExceptions = True
    log._depth = 0
    structlog.reset_defaults()


def test_every_line_parses_and_has_time_level_and_request_id(lines):
    read = lines()
    with log.request_context("req-1"):
        structlog.get_logger("mlxd.x").info("ours", n=1)
        logging.getLogger("inference.engine").info("core's")
        logging.getLogger("daphne.server").warning("a library's")
    logging.getLogger("mlxd").info("outside")
    seen = read()
    assert [line["event"] for line in seen] == ["ours", "core's", "a library's", "outside"]
    assert all({"ts", "level", "logger"} <= line.keys() for line in seen)
    assert [line.get("request_id") for line in seen] == ["req-1"] * 3 + [None]


async def test_ids_do_not_leak_between_concurrent_requests(lines):
    read = lines()

    async def serve(name):
        with log.request_context(name):
            await asyncio.sleep(0)
            await asyncio.create_task(child(name))

    async def child(name):
        await asyncio.sleep(0)
        structlog.get_logger("mlxd").info(name)

    await asyncio.gather(*(serve(f"r{n}") for n in range(8)))
    assert sorted(line["event"] for line in read()) == [f"r{n}" for n in range(8)]
    assert all(line["event"] == line["request_id"] for line in read())


@given(st.text(st.characters(), max_size=60))
def test_no_text_can_make_a_second_line_or_drive_a_terminal(text):
    shown = log_line.escape(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    shown.encode()


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_forged_line_stays_inside_its_own(form, lines):
    lines(form=form)
    attack = 'x"\r\n2026-01-01T00:00:00Z info admin logged in\x1b[2J\u202egnp.exe'
    structlog.get_logger("mlxd").warning("odd name", model=attack)
    logging.getLogger("daphne").warning("%s", attack)
    written = lines.buffer.getvalue()
    assert len(written.splitlines()) == 2
    assert "\x1b" not in written and "\u202e" not in written


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": CANARY},
        {"messages": [{"content": CANARY}]},
        {"arguments": CANARY},
        {"authorization": f"Bearer {CANARY}"},
        {"x_api_key": CANARY},
        {"admin_token": CANARY},
        {"set_cookie": CANARY},
        {"hf_token": CANARY},
        {"note": f"Bearer {CANARY}"},
        {"note": f"mlxd_admin_{CANARY}"},
        {"note": f"token hf_{CANARY}{CANARY}"},
        {"url": f"https://cdn.example/x?Signature={CANARY}"},
        {"note": f"data:image/png;base64,{CANARY}"},
    ],
    ids=str,
)
def test_secrets_and_content_are_never_written(fields, lines):
    lines(debug=3)
    structlog.get_logger("mlxd").error("event", **fields)
    assert "event" in lines.buffer.getvalue()
    assert CANARY not in lines.buffer.getvalue()


def test_a_secret_across_the_cut_is_still_masked(lines):
    lines()
    structlog.get_logger("mlxd").error("event", note="x" * (log_line.MAX_CHARS - 8) + f" hf_{CANARY}{CANARY}")
    assert CANARY[:4] not in lines.buffer.getvalue()


def test_counts_and_key_ids_are_kept(lines):
    read = lines()
    structlog.get_logger("mlxd").info("e", prompt_tokens=5, cached_tokens=2, key_id="0badf00d", token_count=3)
    assert read()[0] | {"prompt_tokens": 5, "cached_tokens": 2, "key_id": "0badf00d", "token_count": 3} == read()[0]


def test_exceptions_are_named_by_class_and_place_only(lines):
    read = lines()

    def fail():
        raise ValueError(CANARY) from KeyError(CANARY)

    try:
        fail()
    except ValueError as error:
        structlog.get_logger("mlxd").exception("went wrong")
        logging.getLogger("daphne").exception("went wrong")
        logging.getLogger("django.request").error("went wrong", exc_info=error)
    assert CANARY not in lines.buffer.getvalue()
    assert len(read()) == 3
    for line in read():
        assert line["exception"] == "builtins.ValueError" and line["cause"] == "KeyError"
        assert line["at"].endswith(" fail")


async def test_a_lost_task_does_not_print_its_message(lines):
    lines()

    async def fail():
        raise ValueError(CANARY)

    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": ValueError(CANARY), "future": CANARY}
    )
    assert "never retrieved" in lines.buffer.getvalue()
    assert CANARY not in lines.buffer.getvalue()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_uncaught_exception_in_a_thread_is_logged_without_its_message(lines):
    read = lines()
    log.log_uncaught()

    def fail():
        raise ValueError(CANARY)

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert read()[0]["exception"] == "builtins.ValueError" and read()[0]["level"] == "critical"
    assert CANARY not in lines.buffer.getvalue()


def test_libraries_are_quiet_until_asked(lines):
    read = lines()
    logging.getLogger("some_library").info("chatter")
    logging.getLogger("django.request").warning("Not Found: /x")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    structlog.get_logger("mlxd").debug("detail")
    assert read() == []
    read = lines(debug=2)
    logging.getLogger("some_library").info("chatter")
    structlog.get_logger("mlxd").debug("detail")
    assert [line["event"] for line in read()] == ["chatter", "detail"]


@pytest.mark.parametrize("depth", range(4))
def test_tool_calls_are_shown_at_depth_three_only(depth, lines):
    read = lines(debug=depth)
    log.log_tool_call("read_file", 20)
    assert log.depth() == depth
    assert [(line["tool"], line["arguments_bytes"]) for line in read()] == [("read_file", 20)] * (depth == 3)


def test_the_request_line(lines):
    read = lines()
    with log.request_context("req-9"):
        log.log_request(
            method="POST", route="/v1/chat/completions", status=200, duration_ms=12.345, model="demo", prompt_tokens=7
        )
        log.log_request(method="GET", route="/v1/models/{id}", status=500, duration_ms=1.0, error="internal_error")
    fine, failed = read()
    assert fine["duration_ms"] == 12.3 and fine["prompt_tokens"] == 7 and fine["request_id"] == "req-9"
    assert "completion_tokens" not in fine
    assert (fine["level"], failed["level"]) == ("info", "error")


def test_the_request_line_takes_every_fate_of_a_span(lines):
    """Its figures come as a mapping: a name it does not know would cost the line."""
    read = lines()
    entries = tuple(Entry("rule", "messages[0]", fate, "sent", "read") for fate in Fate)
    told = drift.figures(SpanLedger("bind", entries, refused=("other",)))
    log.log_request(method="POST", route="/v1/chat/completions", status=200, duration_ms=1.0, **told)
    assert {name: value for name, value in read()[0].items() if "span" in name or "rule" in name} == told
    assert len(told) == len(Fate), "all but what was kept, and the refused"


def test_what_is_only_busy_is_told_once_and_is_no_error(lines):
    read = lines()
    logging.getLogger("django.request").error("Service Unavailable: /health/ready")
    log.log_request(method="GET", route="/health/ready", status=503, duration_ms=1.0)
    assert [(line["event"], line["level"]) for line in read()] == [("request", "info")]


def test_text_lines_are_for_people(lines):
    lines(form="text")
    structlog.get_logger("mlxd").info("model loaded", model="a b", seconds=1.5)
    line = lines.buffer.getvalue().strip()
    assert 'info     model loaded model="a b" seconds=1.5' in line


def test_the_file_is_private_and_holds_its_size(lines, tmp_path, monkeypatch):
    monkeypatch.setattr(log, "FILE_BYTES", 2000)
    monkeypatch.setattr(log, "FILES_KEPT", 2)
    lines(directory=tmp_path / "logs")
    for n in range(100):
        structlog.get_logger("mlxd").info(f"line {n % 20}", n=n)
    flush()
    files = sorted((tmp_path / "logs").iterdir())
    assert [file.name for file in files] == ["mlxd.log", "mlxd.log.1", "mlxd.log.2"]
    assert all(file.stat().st_size <= 2000 and stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    last = [json.loads(line) for line in files[0].read_text().splitlines()]
    assert last[-1]["n"] == 99


def test_a_file_that_was_moved_away_is_made_anew(lines, tmp_path):
    lines(directory=tmp_path / "logs")
    structlog.get_logger("mlxd").info("first")
    flush()
    (tmp_path / "logs" / "mlxd.log").rename(tmp_path / "moved")
    log.reopen()
    structlog.get_logger("mlxd").info("second")
    flush()
    assert "first" in (tmp_path / "moved").read_text()
    assert "second" in (tmp_path / "logs" / "mlxd.log").read_text()


def test_a_file_that_cannot_be_written_does_not_stop_the_daemon(lines, tmp_path, capsys):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "mlxd.log").symlink_to("/etc/passwd")
    read = lines(directory=tmp_path / "logs")
    structlog.get_logger("mlxd").info("still here")
    assert read()[0]["event"] == "still here"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("value", ["x" * 100_000, ["x" * 9] * 9999, {"a": object()}])
def test_long_and_odd_values_are_shortened(value, lines):
    lines()
    structlog.get_logger("mlxd").info("e", value=value)
    assert len(lines.buffer.getvalue()) < 3000

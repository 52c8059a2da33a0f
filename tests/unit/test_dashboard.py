"""The status page's own arithmetic, and that nothing it shows becomes a part of it."""

from html.parser import HTMLParser

import pytest
from django.template.loader import render_to_string

from dashboard.views import ModelRow, duration
from tests.payloads import PAYLOADS


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min"), (61, "1 min 1 s"), (3_725, "1 h 2 min"), (90_000, "1 d 1 h")],
)
def test_a_duration_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Shape(HTMLParser):
    """Tags, the names of their attributes, and where scripts and links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.seen: list[object] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        leads = [value for name, value in attrs if name in ("src", "href", "action")]
        self.seen.append((tag, [name for name, _ in attrs], leads))

    def handle_endtag(self, tag: str) -> None:
        self.seen.append(tag)

    def handle_comment(self, data: str) -> None:
        self.seen.append(("comment", data))


def page(text: str, *, require_key: bool = False) -> str:
    """The status page with `text` wherever something stands that is not ours, or may not be."""
    row = ModelRow(text, text, text, text, 5, 5, 1)
    scheduler = {"alive": True, "rows": [{"id": text, "model_id": text, "prompt_tokens": 5, "done_tokens": 1}]}
    context = {
        "view": {"version": text, "require_key": require_key},
        "scheduler": scheduler, "models": [row], "faults": [(text, 1)], "ready": False,
        "reason": text, "uptime": text, "base_url": text,
    }  # fmt: skip
    return render_to_string("dashboard/status.html", context)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_whatever_stands_on_the_page_it_has_the_same_shape(payload: str) -> None:
    assert Shape(page(payload)).seen == Shape(page("plain")).seen
    assert len(PAYLOADS) == 30


def test_a_page_that_escaped_nothing_would_be_found() -> None:
    raw = page("plain").replace("plain", PAYLOADS[1])
    assert Shape(raw).seen != Shape(page("plain")).seen


def test_the_page_tells_what_a_client_has_to_be_given() -> None:
    keyless, guarded = page("x"), page("x", require_key=True)
    assert "OPENAI_API_KEY=any" in keyless and "OPENAI_API_KEY=KEY" not in keyless
    assert "OPENAI_API_KEY=KEY" in guarded and "A key of this server is required" in guarded and "any<" not in guarded

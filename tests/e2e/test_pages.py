"""The pages in a real browser: nothing that is shown on them is run by it, and no other page gets through to mlxd."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chromium import FOUND, LIMIT_S, Chromium, Page
from tests.payloads import PAYLOADS

pytestmark = pytest.mark.skipif(FOUND is None, reason="there is no Chromium here")
SCRIPT = Path(__file__).with_name("hostile_page.py")
TOKEN = "mlxd_admin_" + "t" * 43


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def named_by_an_attacker() -> Iterator[str]:
    """The URL of a server whose every name is a payload."""
    command = [sys.executable, "-P", str(SCRIPT), TOKEN]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture
def page(browser: Chromium) -> Iterator[Page]:
    with browser.page() as opened:
        yield opened


def sign_in(page: Page, url: str) -> None:
    """As a person does who types the token."""
    page.open(url)
    page.run(f"document.getElementById('token').value = '{TOKEN}'; document.querySelector('button').click()")
    page.wait_for("location.pathname === '/' && document.readyState === 'complete'")


def look(page: Page) -> None:
    """Has the page drawn once more by its script, and everything on it touched."""
    touch = "e => ['mouseover', 'focus'].forEach(name => e.dispatchEvent(new Event(name)))"
    page.run("refresh()")
    page.run(f"document.querySelectorAll('*').forEach({touch})")
    page.run("new Promise(done => setTimeout(done, 200))")


def test_nothing_that_is_shown_is_run(named_by_an_attacker: str, page: Page) -> None:
    sign_in(page, f"{named_by_an_attacker}/login")
    look(page)
    assert page.dialogs == []
    shown = page.run("document.body.innerText")
    plain = [text for text in PAYLOADS if text.isprintable()]
    assert len(plain) > 25 and [text for text in plain if shown.count(text) < 3] == [], "all of it is text"
    assert page.run("[document.scripts.length, document.querySelectorAll('img, svg, iframe, form').length]") == [1, 0]


@pytest.mark.parametrize(("wishes", "is_run"), [("raw", False), ("raw+bare", True)])
def test_what_is_not_escaped_is_kept_from_running_by_the_policy(
    named_by_an_attacker: str, page: Page, wishes: str, is_run: bool
) -> None:
    """Each of the two would do alone. Without both it is run, which shows that it would be seen."""
    sign_in(page, f"{named_by_an_attacker}/login?{wishes}")
    look(page)
    until_s = time.monotonic() + LIMIT_S
    while is_run and not page.dialogs and time.monotonic() < until_s:
        look(page)
    assert bool(page.dialogs) is is_run
    assert page.run("document.querySelectorAll('img').length") > 0


def test_an_address_that_is_pasted_over_the_login_page_signs_in(named_by_an_attacker: str, page: Page) -> None:
    """For what stands behind the # alone no browser loads a page anew."""
    made = httpx.post(
        f"{named_by_an_attacker}/api/login/code", headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60
    )
    page.open(f"{named_by_an_attacker}/login")
    page.run("location.hash = 'mistyped'")
    page.wait_for("document.getElementById('told').textContent !== ''")
    assert page.run("location.pathname + location.hash") == "/login", "nor does it stay to be looked at"
    page.run(f"location.hash = '{made.json()['code']}'")
    page.wait_for("location.pathname === '/' && document.readyState === 'complete'")


# --- other pages ------------------------------------------------------------------------------------------------

ATTACKS = {
    "simple post": "fetch(at('/v1/chat/completions'), {...own, method: 'POST', mode: 'no-cors', body: '{}'})",
    "typed post": "fetch(at('/v1/chat/completions'), {...own, method: 'POST', headers: json, body: '{}'})",
    "bare post": "fetch(at('/api/token/rotate'), {...own, method: 'POST', mode: 'no-cors'})",
    "delete": "fetch(at('/api/sessions/x'), {...own, method: 'DELETE'})",
    "read": "fetch(at('/api/status'), own)",
    "read blindly": "fetch(at('/api/status'), {...own, mode: 'no-cors'})",
    "models": "fetch(at('/v1/models'), {mode: 'no-cors'})",
    "beacon": "navigator.sendBeacon(at('/api/token/rotate'), new Blob(['{}'], {type: 'text/plain'}))",
    "socket": "new Promise((opened, not) => Object.assign(new WebSocket(at('/').replace('http', 'ws')), "
    "{onopen: opened, onerror: not}))",
    "events": "new Promise((opened, not) => Object.assign(new EventSource(at('/?part=figures'), "
    "{withCredentials: true}), {onmessage: opened, onerror: not}))",
    "image": "tag('img', {src: at('/static/dashboard/icon.svg?uncached')})",
    "script": "tag('script', {src: at('/static/dashboard/status.js?uncached')})",
    "style": "tag('link', {rel: 'stylesheet', href: at('/static/dashboard/status.css?uncached')})",
    "frame": "tag('iframe', {src: at('/')}).then(frame => frame.contentDocument.title)",
    "framed login": "tag('iframe', {src: at('/login')}).then(frame => frame.contentDocument.title)",
    "form": "form('/api/login')",
    "form to the login": "form('/login')",
}
AIDS = """
const at = path => 'TARGET' + path, own = {credentials: 'include'}, json = {'Content-Type': 'application/json'};
const tag = (name, values) => new Promise((loaded, not) => document.body.append(
    Object.assign(document.createElement(name), {onload: event => loaded(event.target), onerror: not}, values)));
const form = path => {
    tag('iframe', {name: 'into' + path});
    const made = document.createElement('form');
    Object.assign(made, {method: 'post', enctype: 'text/plain', target: 'into' + path, action: at(path)});
    document.body.append(made);
    made.submit();
};
"""


class EmptyPage(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another page</title><body>")

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def another_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyPage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_no_page_of_another_origin_gets_through(
    named_by_an_attacker: str, page: Page, another_port: int, host: str
) -> None:
    """The browser is signed in, and sends the cookie along from another port of the same address."""
    sign_in(page, f"{named_by_an_attacker}/login")
    page.open(f"http://{host}:{another_port}/")
    page.run(AIDS.replace("TARGET", named_by_an_attacker).replace("const ", "var "))
    for name, attack in ATTACKS.items():
        before = told(named_by_an_attacker)
        got = page.run(f"Promise.resolve().then(() => {attack}).then(got => String(got?.status ?? got), () => 'not')")
        after = refused_since(before, named_by_an_attacker)
        assert [what for site, what in after["reached"] if site != "same-origin"] == [], name
        assert got in ("not", "0", "true", "undefined"), (name, got)


def test_a_page_of_our_own_does_get_through(named_by_an_attacker: str, page: Page) -> None:
    """The same calls, so that what is refused above is refused for where it comes from."""
    sign_in(page, f"{named_by_an_attacker}/login")
    page.run(AIDS.replace("TARGET", "").replace("const ", "var "))
    told(named_by_an_attacker)
    for name in ("typed post", "read", "models", "script", "style", "image"):
        page.run(f"Promise.resolve().then(() => {ATTACKS[name]}).then(() => 1, () => 0)")
        assert "same-origin" in dict(told(named_by_an_attacker)["reached"]), name


def refused_since(before: dict[str, Any], url: str) -> dict[str, Any]:
    """What is told once the transport has refused something more; a form is on its way for a moment."""
    until_s, reached = time.monotonic() + LIMIT_S, []
    while True:
        after = told(url)
        reached += after["reached"]
        if sum(after["refused"].values()) > sum(before["refused"].values()):
            return {**after, "reached": reached}
        assert time.monotonic() < until_s, "nothing was refused"
        time.sleep(0.02)


def told(url: str) -> dict[str, Any]:
    """What reached the application since it was asked last, and how often what was refused."""
    return dict(httpx.get(f"{url}/told", timeout=60).json())

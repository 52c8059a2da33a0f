"""Who is signed in, for how long, and what ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from mlxd.cli.open import has_screen
from mlxd.keys.browsers import IDLE_S, MAX_BROWSERS, SEEN_S, Browser, Browsers, csrf_of
from mlxd.keys.codes import CODE_S, MAX_CODES, LoginCodes
from mlxd.keys.keyring import KeysUnavailable

TOKEN, NEW_TOKEN = b"t" * 32, b"n" * 32


class Shelf:
    """Keeps what it is given, unless it is `out`."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Browser] = {}
        self.out = False

    async def browser_seen(self, browser: Browser) -> None:
        if self.out:
            raise KeysUnavailable("The disk is out.")
        self.kept[browser.digest] = browser

    async def browsers_closed(self, digests: Iterable[bytes]) -> None:
        if self.out:
            raise KeysUnavailable("The disk is out.")
        for digest in digests:
            self.kept.pop(digest, None)


async def test_a_browser_is_known_until_it_was_idle_for_long() -> None:
    browsers = Browsers()
    cookie = await browsers.sign_in(TOKEN, 1000.0)
    now_s = 1000.0
    for _ in range(3):
        now_s += IDLE_S
        assert browsers.knows(TOKEN, cookie, now_s), "used in time it stays"
    assert not browsers.knows(TOKEN, cookie, now_s + IDLE_S + 1)
    assert not browsers.knows(TOKEN, cookie[:-1], now_s) and not browsers.knows(TOKEN, "", now_s)


async def test_what_is_kept_is_no_cookie_and_good_after_a_restart() -> None:
    shelf = Shelf()
    cookie = await Browsers(shelf).sign_in(TOKEN, 0.0)
    assert cookie not in repr(shelf.kept)
    assert Browsers(shelf, shelf.kept.values()).knows(TOKEN, cookie, IDLE_S)


async def test_signing_out_is_for_good() -> None:
    shelf = Shelf()
    browsers = Browsers(shelf)
    one, other = await browsers.sign_in(TOKEN, 0.0), await browsers.sign_in(TOKEN, 0.0)
    await browsers.sign_out(TOKEN, one)
    assert not browsers.knows(TOKEN, one, 1.0) and browsers.knows(TOKEN, other, 1.0)
    again = Browsers(shelf, shelf.kept.values())
    assert not again.knows(TOKEN, one, 1.0) and again.knows(TOKEN, other, 1.0)
    assert await again.sign_all_out() == 1 and not shelf.kept


async def test_a_new_token_signs_all_out_even_where_the_disk_forgets_nothing() -> None:
    shelf = Shelf()
    browsers = Browsers(shelf)
    cookie = await browsers.sign_in(TOKEN, 0.0)
    shelf.out = True
    assert await browsers.sign_all_out() == 1
    assert not Browsers(shelf, shelf.kept.values()).knows(NEW_TOKEN, cookie, 1.0)


async def test_the_one_idle_longest_makes_room() -> None:
    browsers = Browsers(shelf := Shelf())
    cookies = [await browsers.sign_in(TOKEN, float(at)) for at in range(MAX_BROWSERS)]
    assert browsers.knows(TOKEN, cookies[0], 100.0)
    await browsers.sign_in(TOKEN, 101.0)
    known = [browsers.knows(TOKEN, cookie, 102.0) for cookie in cookies]
    assert known == [True, False, *[True] * (MAX_BROWSERS - 2)] and len(shelf.kept) == MAX_BROWSERS


async def test_use_is_written_now_and_then() -> None:
    browsers = Browsers(shelf := Shelf())
    cookie = await browsers.sign_in(TOKEN, 0.0)
    for now_s in (1.0, SEEN_S - 1, SEEN_S + 1, SEEN_S + 2):
        assert browsers.knows(TOKEN, cookie, now_s)
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [browser.seen_s for browser in shelf.kept.values()] == [SEEN_S + 1]


def test_a_code_is_good_once_and_for_a_minute() -> None:
    codes = LoginCodes()
    first, late = codes.mint(0.0), codes.mint(0.0)
    assert codes.redeem(first, CODE_S - 1) and not codes.redeem(first, CODE_S - 1)
    assert not codes.redeem(late, CODE_S) and not codes.redeem("", 0.0)
    many = [codes.mint(1.0) for _ in range(MAX_CODES + 1)]
    assert [codes.redeem(code, 2.0) for code in many] == [False, *[True] * MAX_CODES]
    last = codes.mint(0.0)
    codes.take_back()
    assert not codes.redeem(last, 1.0)


def test_what_a_page_sends_along_is_of_the_cookie_and_of_the_token() -> None:
    made = {csrf_of(token, cookie) for token in (TOKEN, NEW_TOKEN) for cookie in ("a", "b", "\udc80")}
    assert len(made) == 6 and csrf_of(TOKEN, "a") in made


@pytest.mark.parametrize(
    ("environ", "platform", "shown"),
    [
        ({}, "linux", False),
        ({"DISPLAY": ":0"}, "linux", True),
        ({"WAYLAND_DISPLAY": "wayland-0"}, "linux", True),
        ({}, "darwin", True),
        ({"SSH_CONNECTION": "10.0.0.1 5 10.0.0.2 22"}, "darwin", False),
    ],
)
def test_no_browser_is_looked_for_where_none_can_be_seen(environ: dict[str, str], platform: str, shown: bool) -> None:
    assert has_screen(environ, platform) is shown

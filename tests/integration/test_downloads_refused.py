"""A hub that lies, is busy, or sends us elsewhere: nothing that could be taken for a model is left by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inference.errors import InferenceError, InvalidModel, ModelNotFound, UnsafeModel
from mlxd.catalog.fetch import DownloadFailed, Waiting, fetch
from mlxd.catalog.fetch.backoff import LONGEST_ASKED_S, TRIES
from mlxd.catalog.fetch.listing import MAX_FILES
from tests.hubs import REVISION, Hub, Reply, entry, serving
from tests.integration.fetched import FILES, WANTED, WEIGHTS, Fetched, client, is_whole


def files(*more: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """The listing with entries besides, or with changes of the weights' own."""
    config, weights = (entry(name, FILES[name]) for name in sorted(WANTED))
    return [config, weights | changes, *more]


OID = "0" * 40
LISTINGS: dict[str, tuple[Any, type[InferenceError]]] = {
    "no list": ({}, DownloadFailed),
    "a list of no files": ([1, 2], DownloadFailed),
    "no weights": ([entry("config.json", b"{}")], InvalidModel),
    "no config": ([entry("model.safetensors", b"")], InvalidModel),
    "pickled weights": ([entry("config.json", b"{}"), entry("pytorch_model.bin", b"")], UnsafeModel),
    "names that differ by case": (files(entry("Config.json", b"{}")), UnsafeModel),
    "names that differ by form": (files(entry("ｃonfig.json", b"{}")), UnsafeModel),
    "a name twice": (files(entry("config.json", b"{ }")), UnsafeModel),
    "no size": (files(size=None, lfs=None), DownloadFailed),
    "a size below nothing": (files(size=-1, lfs=None), DownloadFailed),
    "a size that is none": (files(size=True, lfs=None), DownloadFailed),
    "a size beyond all": (files(size=2**60, lfs=None), DownloadFailed),
    "a digest that leads away": (files(lfs={"oid": "../../../x", "size": 1}), DownloadFailed),
    "no digest": (files(lfs={"size": 1}), DownloadFailed),
    "more room than there is": (files(size=2**43, lfs=None), DownloadFailed),
    "too many files": (files(*({"type": "file", "path": f"{at}.md"} for at in range(MAX_FILES))), InvalidModel),
    "too many directories": (files(*({"type": "directory"} for _ in range(MAX_FILES))), InvalidModel),
}


@pytest.mark.parametrize("kind", LISTINGS)
def test_a_listing_that_cannot_be_is_refused_before_anything_is_fetched(fetched: Fetched, hub: Hub, kind: str) -> None:
    hub.entries, expected = LISTINGS[kind]
    assert type(fetched.refusal()) is expected
    assert hub.fetched() == []


@pytest.mark.parametrize(
    "name",
    ["../evil.json", "sub/evil.json", "/evil.json", "a\\evil.json", "..json", "é.json", "a\0.json", ".json", "x" * 300,
     "evil.py", "evil.bin", "evil.JSON", "-evil.json", "evil.json.", "a b.json"],
)  # fmt: skip
def test_a_name_that_is_no_plain_one_stays_where_it_is(fetched: Fetched, hub: Hub, name: str) -> None:
    hub.entries = files({**entry(name, b"{}"), "path": name})
    assert is_whole(fetched.run())
    assert set(hub.fetched()) == WANTED


def sends(**changes: Any) -> Callable[[str, Reply], Reply]:
    return lambda path, reply: replace(reply, **changes) if path.endswith(".safetensors") else reply


SENDINGS: dict[str, tuple[Callable[[str, Reply], Reply], type[InferenceError]]] = {
    "other bytes": (sends(body=WEIGHTS[::-1]), InvalidModel),
    "more than it lists": (sends(body=WEIGHTS + b"!"), DownloadFailed),
    "no end": (sends(body=WEIGHTS * 2, headers={"Content-Length": ""}), DownloadFailed),
    "less than it lists": (sends(body=WEIGHTS[:9]), DownloadFailed),
    "nothing": (sends(cut=0), DownloadFailed),
    "compressed": (sends(headers={"Content-Encoding": "gzip"}), DownloadFailed),
    "another part": (sends(status=206, headers={"Content-Range": f"bytes 9-10/{len(WEIGHTS)}"}), DownloadFailed),
    "a part of nothing": (sends(status=206), DownloadFailed),
    "no such file": (sends(status=404), ModelNotFound),
    "not for you": (sends(status=403, headers={"X-Error-Code": "GatedRepo"}), ModelNotFound),
    "an address of a file": (sends(status=302, headers={"Location": "file:///etc/passwd"}), DownloadFailed),
    "an address that is none": (sends(status=302, headers={"Location": "http://[x"}), DownloadFailed),
    "itself": (sends(status=302, headers={"Location": "/o/tiny/resolve/x.safetensors"}), DownloadFailed),
    "a fault": (sends(status=500), DownloadFailed),
    "a teapot": (sends(status=418), DownloadFailed),
}


@pytest.mark.parametrize("kind", SENDINGS)
def test_a_file_that_is_not_what_was_listed_never_appears(fetched: Fetched, hub: Hub, kind: str) -> None:
    hub.twist, expected = SENDINGS[kind]
    assert type(fetched.refusal()) is expected
    weights = [file for file in (fetched.folder / "blobs").iterdir() if file.stat().st_size > 100]
    assert not weights


@pytest.mark.parametrize(
    "reply",
    [Reply(b"<html>"), Reply(b"[" * 100_000), Reply(b"[]," * 2_000_000), Reply(b" " * 9_000_000), Reply(b'["a"]'),
     Reply(b'{"sha": "main"}'), Reply(b"{}", headers={"Content-Encoding": "gzip"}), Reply(b"\xff")],
    ids=lambda reply: f"{reply.body[:8]!r}, {reply.headers}",
)  # fmt: skip
@pytest.mark.parametrize("of", ["/revision/", "/tree/"])
def test_an_answer_that_is_none_is_bounded_and_refused(fetched: Fetched, hub: Hub, reply: Reply, of: str) -> None:
    hub.twist = lambda path, sound: reply if of in path else sound
    assert isinstance(fetched.refusal(), DownloadFailed)
    assert not fetched.folder.exists()


def test_pages_without_end_are_not_followed(fetched: Fetched, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxd.catalog.fetch.listing.MAX_PAGES", 20)
    link = {"Link": f'</api/models/o/tiny/tree/{REVISION}?cursor=x>; rel="next"'}
    hub.twist = lambda path, reply: replace(reply, body=b"[]", headers=link) if "/tree/" in path else reply
    assert isinstance(fetched.refusal(), InvalidModel)
    link["Link"] = '<http://127.0.0.1:9/tree>; rel="next"'
    assert "another host" in fetched.refusal().message


# --- a hub that is busy, and who gets the token ---------------------------------------------------------------------


def busy(times: int, status: int = 429, **headers: str) -> Callable[[str, Reply], Reply]:
    left = [times]

    def reply(_path: str, sound: Reply) -> Reply:
        left[0] -= 1
        return Reply(status=status, headers=headers) if left[0] >= 0 else sound

    return reply


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_hub_is_waited_for_as_long_as_it_asks(fetched: Fetched, hub: Hub, status: int) -> None:
    hub.twist = busy(2, status, **{"Retry-After": "7"})
    assert is_whole(fetched.run())
    assert len(fetched.waits) == 2 and all(7 <= wait.wait_s <= 8 for wait in fetched.waits)
    assert f"answers {status}" in fetched.waits[0].cause


def test_patience_has_an_end(fetched: Fetched, hub: Hub) -> None:
    hub.twist = busy(1000)
    assert f"{TRIES} times in a row" in fetched.refusal().message
    waits = [wait.wait_s for wait in fetched.waits]
    assert len(waits) == TRIES - 1 and all(2**at / 2 <= wait <= 2**at for at, wait in enumerate(waits))
    assert len(set(waits)) == len(waits), "nobody comes in step"
    hub.twist = busy(1, 429, **{"Retry-After": str(int(LONGEST_ASKED_S) + 60)})
    assert "come back in 6 minutes" in fetched.refusal().message


@pytest.mark.parametrize("said", ["", "soon", "-1", "9" * 30, "Mon, 01 Jan 2024 00:00:00 +99999999999999"])
def test_nonsense_about_how_long_to_wait_is_passed_over(fetched: Fetched, hub: Hub, said: str) -> None:
    hub.twist = busy(1, 429, **{"Retry-After": said})
    assert is_whole(fetched.run()) and fetched.waits[0].wait_s <= 1


@pytest.mark.parametrize("location", ["http://xn--a/", "http://[::1", "file:///etc/passwd", "http://x:-1/"])
def test_a_redirect_to_nowhere_is_not_followed(fetched: Fetched, hub: Hub, location: str) -> None:
    hub.twist = lambda _path, _sound: Reply(status=302, headers={"Location": location})
    assert isinstance(fetched.refusal(), DownloadFailed)


def test_a_hub_that_is_gone_is_told_from_one_that_has_nothing(tmp_path: Path, hub: Hub) -> None:
    one = Fetched(hub, tmp_path / "cache")
    one.client.close()
    waits: list[Waiting] = []
    for endpoint in ("http://127.0.0.1:9", "http://nowhere.invalid"):
        gone = client(endpoint, None, waits.append)
        with pytest.raises(DownloadFailed, match="cannot be reached"):
            fetch(gone, "o/tiny", tmp_path / "cache")
        gone.close()
    assert len(waits) == 2 * (TRIES - 1) and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "endpoint", ["", "huggingface.co", "ftp://x", "http://", "https://u:p@x", "http://x/?a=b", "a\0b", "http://xn--a"]
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(DownloadFailed, match="hf_endpoint"):
        client(endpoint)


def test_the_token_goes_to_the_hub_and_to_nobody_it_sends_us_to(hub: Hub, tmp_path: Path) -> None:
    with serving(FILES) as elsewhere:

        def sent_on(path: str, reply: Reply) -> Reply:
            return (
                Reply(status=302, headers={"Location": f"{elsewhere.url}{path}?sig=1"})
                if "/resolve/" in path
                else reply
            )

        hub.twist = sent_on
        one = Fetched(hub, tmp_path / "cache", token="hf_" + "t" * 20)
        assert is_whole(one.run())
        one.client.close()
        assert all(asked.headers["authorization"] == "Bearer hf_" + "t" * 20 for asked in hub.asked)
        assert elsewhere.fetched() and all("authorization" not in asked.headers for asked in elsewhere.asked)


def test_the_token_is_never_sent_in_the_clear_to_another_machine() -> None:
    for endpoint, sent in (("http://mirror.example", False), ("https://mirror.example/hf", True)):
        one = client(endpoint, "secret")
        assert ("Authorization" in one._own_headers(one.url("/api/x"))) is sent
        one.close()

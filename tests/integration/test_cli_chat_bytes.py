"""`mlxd chat` with what is no text, no key and no address."""

import subprocess

import pytest

from tests.integration.cli_peer import MLXD, run


def test_what_is_no_key_is_not_sent(home, peer, tmp_path):
    for content in (b"\xff\xd5", "schl\xfcssel".encode(), b"one\ntwo"):
        (tmp_path / "key").write_bytes(content)
        ended, _ = run(home, "chat", "--base-url", peer.url, "--api-key-file", str(tmp_path / "key"), "-p", "x")
        assert ended.returncode == 2 and "holds no key" in ended.stderr and "Traceback" not in ended.stderr
    assert peer.requests == []


def test_bytes_that_are_no_text_are_asked_as_well_as_they_can_be(home, peer):
    """As in a difference of files of another encoding, whatever the terminal's."""
    for locale in ({"LC_ALL": "C"}, {"PYTHONIOENCODING": "utf-8:strict"}, {"PYTHONIOENCODING": "ascii"}):
        piped = subprocess.run(
            [*MLXD, "chat", "--base-url", peer.url, "-p", "-", "--system", b"\xfe"],
            env=home | locale, input=b"a\xfcb", capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert (piped.returncode, piped.stdout, piped.stderr) == (0, b"forty-two\n", b"")
        system, user = [message["content"] for message in peer.requests.pop()["messages"]]
        assert system == "?" and user in ("a?b", "a\ufffdb")


@pytest.mark.parametrize("address", ["http://[::1", "http://" + "\xe4" * 80])
def test_an_address_that_is_none_is_told(home, address):
    ended, _ = run(home, "chat", "--base-url", address, "-p", "x")
    assert ended.returncode == 2 and "no base URL" in ended.stderr and "Traceback" not in ended.stderr

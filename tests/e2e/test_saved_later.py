"""A conversation that is only on the disk, for nobody has asked since the start, is saved there, and forgotten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.e2e.daemon import ServedDaemon
from tests.e2e.test_saved_conversations import begun, code_of, post, talk


def test_it_is_saved_and_forgotten_after_a_kill(serve: Callable[..., ServedDaemon], tmp_path: Path) -> None:
    mine, theirs = begun("mine"), begun("theirs")
    with serve() as served:
        served.wait_ready()
        talk(served, mine, "And then?")
        talk(served, theirs, "And then?", "other")
        prompt, _ = talk(served, mine, "And after that?")
        served.process.kill()
        served.process.wait(60)
    state = tmp_path / "state0"
    with ServedDaemon(state, served.arguments) as served:
        saved = post(served, "save", {"conversation_id": "the one", "title": "Rules"}).raise_for_status().json()
        assert saved["tokens"] >= prompt - prompt % 256 >= 256 and saved["title"] == "Rules"
        assert code_of(post(served, "save", {"conversation_id": "nobody's"})) == (404, "not_found")
        loaded = post(served, "load", {"conversation_id": "the one"}).raise_for_status().json()
        assert loaded["complete"] and loaded["warm_tokens"] == saved["tokens"]
        sessions = served.http.get("/api/sessions", headers=served.admin).raise_for_status().json()["sessions"]
        assert len(sessions) == 2
        before = files(state)
        for session in sessions:
            served.http.delete(f"/api/sessions/{session['id']}", headers=served.admin).raise_for_status()
        assert code_of(post(served, "save", {"conversation_id": "other"})) == (404, "not_found")
        assert served.terminate() == 0
    assert before > 0 and files(state) == 0, "what nobody else has is gone from the disk"


def files(state: Path) -> int:
    return len([*state.glob("prefixes/v1/*/*/*"), *state.glob("prefixes/s*/*")])

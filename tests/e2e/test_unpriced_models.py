"""Models whose template or tokenizer turns on whoever asks: that request is answered with an error, others go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests import tiny_models
from tests.e2e.daemon import ServedDaemon
from tests.hostile_models import LATER_HOSTILE, endless_pattern, later_hostile

SLACK = 10
CONFINED_S = 2.0


class Bad:
    """A daemon with a sound model and a bad one."""

    def __init__(self, served: ServedDaemon, number_of: Callable[[str], int]) -> None:
        self.served = served
        self.number_of = number_of

    def chat(self, model: str, count: int = 1, text: str = "hi") -> httpx.Response:
        turns = [{"role": "user" if at % 2 == 0 else "assistant", "content": text} for at in range(count)]
        body = {"model": model, "messages": turns, "max_tokens": 2}
        return httpx.post(f"{self.served.url}/v1/chat/completions", json=body, timeout=60)

    def preparing(self) -> list[Any]:
        """The daemon's processes that prepare prompts, and no others."""
        children = psutil.Process(self.served.process.pid).children()
        return [child for child in children if "preparer_process" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bad]:
    root = tmp_path_factory.mktemp("unpriced")
    sound, spoilt = (tiny_models.build(root / name, "dense") for name in ("sound", "bad"))
    number_of = later_hostile(spoilt)
    endless_pattern(spoilt)
    with ServedDaemon(root / "state", ["--model", str(sound), "--model", str(spoilt)]) as served:
        served.wait_ready()
        made = Bad(served, number_of)
        assert [made.chat(name).status_code for name in ("sound", "bad")] == [200, 200]
        yield made
        assert served.process.poll() is None


@pytest.mark.parametrize("kind", LATER_HOSTILE)
def test_a_request_that_a_template_holds_on_to_is_answered_and_others_meanwhile(bad: Bad, kind: str) -> None:
    found: list[httpx.Response] = []
    begun_s = time.monotonic()
    held = threading.Thread(target=lambda: found.append(bad.chat("bad", bad.number_of(kind))))
    held.start()
    while held.is_alive():
        asked_s = time.monotonic()
        assert httpx.get(f"{bad.served.url}/health/live", timeout=60).status_code == 200
        assert time.monotonic() - asked_s < 0.1 * SLACK
        assert bad.chat("sound").status_code == 200
    held.join()
    assert time.monotonic() - begun_s < 3 * CONFINED_S * SLACK
    assert found[0].status_code == 400 and found[0].json()["error"]["code"] == "template_failed", found[0].text
    assert bad.chat("bad").status_code == 200


def test_a_pattern_that_the_library_gives_up_on_is_an_answer(bad: Bad) -> None:
    answer = bad.chat("bad", text="a" * 2000 + "!")
    assert answer.status_code == 400 and "gives up" in answer.json()["error"]["message"]
    assert bad.chat("bad").status_code == bad.chat("sound", text="a" * 2000 + "!").status_code == 200


def test_a_process_killed_in_the_middle_costs_that_request(bad: Bad) -> None:
    (process,) = bad.preparing()
    found: list[httpx.Response] = []
    held = threading.Thread(target=lambda: found.append(bad.chat("bad", bad.number_of("nested loops"))))
    begun_s = process.cpu_times().user
    held.start()
    while held.is_alive() and process.cpu_times().user < begun_s + 0.1:  # 1.5 s until it ends by itself
        time.sleep(0.01)
    process.kill()
    held.join()
    assert found[0].status_code == 500 and found[0].json()["error"]["code"] == "engine_error"
    assert bad.chat("bad").status_code == 200
    assert bad.preparing() != [process]


def test_a_model_that_does_not_end_when_it_is_tried_is_no_model(bad: Bad, tmp_path: Path) -> None:
    """It is refused before it has met any request, and the daemon has not met its template."""
    spoilt = tiny_models.build(tmp_path / "endless", "dense")
    (spoilt / "chat_template.jinja").write_text(LATER_HOSTILE["nested loops"])
    with ServedDaemon(tmp_path / "state", ["--model", str(spoilt)]) as served:
        answer = Bad(served, bad.number_of).chat("endless")
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_model", answer.text
        assert "longer than 0.25 s" in answer.json()["error"]["message"]

"""The daemon under `python -O`: what is refused is refused by code that this does not leave out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx

from tests import tiny_models
from tests.e2e.daemon import ServedDaemon, clean_environment
from tests.hostile_models import HOSTILE, plant_canaries

OPTIMISED = (sys.executable, "-O", "-P", "-m", "mlxd")


def test_a_daemon_without_asserts_refuses_as_it_does_with_them(tmp_path: Path) -> None:
    root = tmp_path / "models"
    sound = tiny_models.build(root / "sound", "dense")
    plant_canaries(sound, tmp_path / "witness")
    kinds = {f"m{at}": kind for at, kind in enumerate(HOSTILE)}
    for name, kind in kinds.items():
        HOSTILE[kind][0](tiny_models.build(root / name, "dense"))
    arguments = ["--model", str(sound), "--model-root", str(root), "--require-key"]
    with ServedDaemon(tmp_path / "state", arguments, OPTIMISED) as served:
        served.wait_ready()
        for name, kind in kinds.items():
            order = f"{served.url}/api/models/load?model_id={name}"
            answer = httpx.post(order, headers=served.admin, timeout=60)
            # A directory without a weight file that could be loaded is no model to the catalog.
            codes = {(400, HOSTILE[kind][1])} | (
                {(404, "model_not_found")} if kind == "only pickled weights" else set()
            )
            assert (answer.status_code, answer.json()["error"]["code"]) in codes, (kind, answer.text)
        doors_are_shut(served)
        assert "came with code or pickled data" in served.log.read_text()
        assert served.terminate() == 0
    assert not (tmp_path / "witness").exists()


def doors_are_shut(served: ServedDaemon) -> None:
    body = {"model": "sound", "prompt": "Once", "max_tokens": 2}
    ask = f"{served.url}/v1/completions"
    for headers in ({}, {"Authorization": "Bearer any"}, {"X-Api-Key": "mlxd_sk_bad"}):
        assert httpx.post(ask, json=body, headers=headers, timeout=60).status_code == 401
        assert httpx.get(f"{served.url}/api/models", headers=headers, timeout=60).status_code == 401
    assert httpx.post(ask, json=body, headers=served.admin, timeout=60).status_code in (401, 403)
    for headers, status in (({"Host": "evil.example"}, 421), ({"Origin": "http://evil.example"}, 403)):
        assert httpx.post(ask, json=body, headers={**served.admin, **headers}, timeout=60).status_code == status
    typed = {**served.admin, "Content-Type": "text/plain"}
    assert httpx.post(f"{served.url}/api/models/unload", content=b"{}", headers=typed, timeout=60).status_code == 415
    made = httpx.post(
        f"{served.url}/api/keys", json={"name": "k", "scopes": ["infer"]}, headers=served.admin, timeout=60
    ).json()
    key = {"Authorization": f"Bearer {made['key']}"}
    assert httpx.post(ask, json=body, headers=key, timeout=60).json()["usage"]["completion_tokens"] == 2
    assert httpx.post(ask, json={**body, "max_tokens": -1}, headers=key, timeout=60).status_code == 400
    assert httpx.get(f"{served.url}/api/models", headers=key, timeout=60).status_code == 403


def test_a_start_that_opens_the_machine_is_refused_without_asserts_too(tmp_path: Path) -> None:
    command = [*OPTIMISED, "serve", "--demo", "--host", "0.0.0.0", "--port", "0", "--state-dir", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=clean_environment())
    assert done.returncode == 2 and "--require-key" in done.stderr

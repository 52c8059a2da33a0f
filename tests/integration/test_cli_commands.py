"""The commands as a person runs them: real processes and real sockets."""

import json
import os
import re
import socket

import pytest

from mlxd import instance
from mlxd.paths import open_state_dir
from tests.integration.cli_peer import nobody_listens, run

# --- serve: refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.7.7"])
def test_an_exposed_address_is_refused(host, home):
    ended, _ = run(home, "serve", "--demo", "--host", host)
    assert ended.returncode == 2
    assert "`host`" in ended.stderr and "`require_key`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_no_variable_alone_opens_it(home):
    ended, _ = run(home | {"MLXD_HOST": "0.0.0.0", "MLXD_REQUIRE_KEY": "true"}, "serve")
    assert ended.returncode == 2 and "no key yet" in ended.stderr and "mlxd keys add" in ended.stderr


def test_a_second_instance_is_refused_quickly(home, tmp_path):
    with instance.claim(open_state_dir(tmp_path / "state")):
        before = sorted(path.name for path in (tmp_path / "state").iterdir())
        ended, took_s = run(home, "serve", "--port", "0")
        assert ended.returncode == 2
        assert f"process {os.getpid()}" in ended.stderr
        assert took_s < 120  # 0.5 s on an idle machine, and it does not wait for the other to end
        assert sorted(path.name for path in (tmp_path / "state").iterdir()) == before


def test_a_taken_port_names_its_holder_and_leaves_it_alone(home):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended, _ = run(home, "serve", "--demo", "--port", str(port))
        assert ended.returncode == 2
        assert f"Port {port}" in ended.stderr and f"process {os.getpid()}" in ended.stderr
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_loose_state_directory_is_refused(home, tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)
    ended, _ = run(home, "serve", "--demo")
    assert ended.returncode == 2 and "chmod 700" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--port", "eighty"], "--port"),
        (["--model", "/nowhere/model"], "no such directory"),
        (["--model", "not a repo"], "names no repository"),
    ],
)
def test_wrong_settings_are_explained(arguments, says, home):
    ended, _ = run(home, "serve", *(["--port", "0"] if "--port" not in arguments else []), *arguments)
    assert ended.returncode == 2 and says in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_directory_without_a_model_is_explained(home, tmp_path):
    ended, _ = run(home, "serve", "--port", "0", "--model", str(tmp_path))
    assert ended.returncode == 2 and "config.json" in ended.stderr


def test_an_unreachable_hub_is_explained(home):
    with nobody_listens() as port:
        ended, _ = run(home, "serve", "--port", "0", "--model", "o/r", "--hf-endpoint", f"http://127.0.0.1:{port}")
    assert ended.returncode == 2
    assert "Downloading o/r" in ended.stderr and "could not be downloaded" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- models, config, doctor -------------------------------------------------------------------------------------------


def put_model(hf_home, repo_id, config):
    folder = hf_home / "hub" / ("models--" + repo_id.replace("/", "--"))
    snapshot = folder / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text(json.dumps(config))
    (snapshot / "model.safetensors").write_bytes(b"x" * 1000)


def test_models_lists_what_is_here(home, tmp_path):
    assert "No models here yet" in run(home, "models")[0].stdout
    causal = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 32768}
    put_model(tmp_path / "hf", "o/text", causal)
    put_model(tmp_path / "hf", "o/eyes", causal | {"vision_config": {}})
    put_model(tmp_path / "hf", "o/embedder", {"architectures": ["BertModel"]})
    rows = {row["id"]: row for row in json.loads(run(home, "models", "--json")[0].stdout)}
    assert rows.keys() == {"o/text", "o/eyes"}
    assert rows["o/text"] | {"context_tokens": 32768, "kind": "text", "size_bytes": 1000, "state": ""} == rows["o/text"]
    assert rows["o/eyes"]["kind"] == "vision"
    assert re.search(r"o/text +0\.0 MiB +32,768 +text", run(home, "models")[0].stdout)


def test_models_says_what_a_running_daemon_serves(home, tmp_path, peer):
    put_model(tmp_path / "hf", "o/idle", {"architectures": ["LlamaForCausalLM"]})
    state = open_state_dir(tmp_path / "state")
    with instance.claim(state):
        instance.publish(state, peer.url)
        rows = {row["id"]: row["state"] for row in json.loads(run(home, "models", "--json")[0].stdout)}
    assert rows == {"o/idle": "", "scripted": "served"}


def test_config_reads_the_state_directorys_file(home, tmp_path):
    open_state_dir(tmp_path / "state")
    (tmp_path / "state" / ".env").write_text("MLXD_MAX_BATCH=2\nMLXD_PROT=1\n")
    ended, _ = run(home, "config", "--json")
    rows = {row["name"]: row for row in json.loads(ended.stdout)}
    assert (rows["max_batch"]["value"], rows["max_batch"]["source"]) == (2, ".env")
    assert rows["state_dir"]["source"] == "environment"
    assert "MLXD_PORT" in ended.stderr


def test_doctor_passes_here_and_fails_for_a_taken_port(home):
    with socket.create_server(("127.0.0.1", 0)) as server:
        ended, _ = run(home, "doctor", "--json", "--port", str(server.getsockname()[1]))
        findings = {finding["name"]: finding for finding in json.loads(ended.stdout)}
        assert ended.returncode == 1
        assert [name for name, finding in findings.items() if finding["status"] == "fail"] == ["port"]
    ended, _ = run(home, "doctor", "--port", "0")
    assert ended.returncode == 0, ended.stdout
    assert "versions: mlxd" in ended.stdout


def test_manage_runs_djangos_commands(home):
    ended, _ = run(home, "manage", "version")
    assert ended.returncode == 0 and re.match(r"\d+\.\d+", ended.stdout)

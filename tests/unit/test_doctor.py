"""Each check of `mlxd doctor` finds its fault when it is planted, names a cure, and is content without it."""

import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest

from mlxd import instance
from mlxd.catalog import LocalModel
from mlxd.config import Config
from mlxd.doctor import (
    CHECKS,
    Scene,
    Status,
    examine,
    machine,
    model_files,
    network,
    other_people,
    python_env,
    settings,
)
from mlxd.doctor.port_holder import PortHolder, port_holder
from mlxd.paths import StateDir, write_private
from mlxd.shadowing import shadowed_packages

GIB = 1 << 30
HOME = Path(python_env.__file__).parents[2]


@pytest.fixture
def scene(tmp_path):
    root = tmp_path / "state"
    root.mkdir(mode=0o700)

    def build(environ=None, warnings=(), **knobs):
        return Scene(Config(state_dir=root, **knobs), StateDir(root), environ or {}, tuple(warnings))

    return build


def healthy(finding):
    assert finding.status is Status.OK, finding
    assert not finding.cure
    return finding.what


def ill(finding, status=Status.FAIL):
    assert finding.status is status, finding
    assert finding.cure
    return f"{finding.what}\n{finding.cure}"


# --- Python -----------------------------------------------------------------------------------------------------


def test_versions_of_everything_that_matters(scene):
    shown = healthy(python_env.versions(scene()))
    for name in ("mlx", "mlx-lm", "django", "daphne"):
        assert f"{name} {metadata.version(name)}" in shown


@pytest.mark.parametrize(("version", "fine"), [((3, 11), False), ((3, 12), True), ((3, 14), True), ((3, 15), False)])
def test_the_python_it_runs_on(version, fine, scene):
    finding = python_env.python_version(scene(), version)
    healthy(finding) if fine else ill(finding)


@pytest.fixture
def venv(tmp_path):
    root = tmp_path / "venv"
    running = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    (root / "bin").mkdir(parents=True)
    (root / "lib" / running).mkdir(parents=True)
    (root / "pyvenv.cfg").touch()
    (root / "bin" / running).touch()
    (root / "bin" / "pip3").write_text(f"#!{root}/bin/{running}\n")
    return root


def test_a_clean_venv(scene, venv):
    healthy(python_env.virtual_environment(scene(), venv))


@pytest.mark.parametrize("stray", ["bin/python3.99", "bin/python3.99-config", "lib/python3.99/site-packages"])
def test_another_pythons_files_in_the_venv_are_named(stray, scene, venv):
    (venv / stray).mkdir(parents=True)
    said = ill(python_env.virtual_environment(scene(), venv))
    assert "python3.99" in said and f"rm -r {venv}" in said


def test_a_pip_of_another_python_in_the_venv_is_named(scene, venv):
    (venv / "bin" / "pip3").write_text("#!/usr/bin/python3.99\n")
    assert "pip3 (runs python3.99)" in ill(python_env.virtual_environment(scene(), venv))


def test_outside_a_venv_there_is_nothing_to_pollute(scene, tmp_path):
    healthy(python_env.virtual_environment(scene(), tmp_path))


def test_our_own_requirements_are_met(scene):
    healthy(python_env.requirements(scene()))


def test_missing_and_old_packages_are_named(scene):
    wanted = ["mlx-lm>=999", "surely-not-installed>=1", "django", "other>=1; sys_platform == 'nowhere'"]
    said = ill(python_env.requirements(scene(), wanted))
    assert f"mlx-lm is {metadata.version('mlx-lm')}, wanted >=999" in said
    assert "surely-not-installed is not installed" in said
    assert "django" not in said and "other" not in said


def test_torch_beside_mlx(scene):
    assert "uninstall" in ill(python_env.torch(scene(), "2.9"), Status.WARN)
    healthy(python_env.torch(scene()))


def test_shadowed_packages(scene, tmp_path):
    healthy(python_env.packages_are_ours(scene()))
    for name in ("inference", "dashboard"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    said = ill(python_env.packages_are_ours(scene(), [str(tmp_path), str(HOME)]))
    assert str(tmp_path / "inference") in said and str(tmp_path / "dashboard") in said
    assert shadowed_packages([str(tmp_path / "nowhere")]) == {"inference": None, "dashboard": None}


# --- the machine ------------------------------------------------------------------------------------------------


def test_metal_is_macos_only(scene):
    assert "not applicable" in healthy(machine.metal_library(scene(), platform="linux"))


def test_a_missing_or_unusable_metal_library(scene, tmp_path):
    usable = machine.Probe("gpu", metal=True)
    assert "mlx.metallib" in ill(machine.metal_library(scene(), "darwin", tmp_path, usable))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "mlx.metallib").touch()
    healthy(machine.metal_library(scene(), "darwin", tmp_path, usable))
    broken = machine.Probe("", trouble="Failed to load the default metallib")
    assert "default metallib" in ill(machine.metal_library(scene(), "darwin", tmp_path, broken))
    ill(machine.metal_library(scene(), "darwin", tmp_path, machine.Probe("cpu", metal=False)))


def test_mlx_really_computes_here():
    probe = machine.probe_mlx()
    assert probe.device in ("cpu", "gpu") and not probe.trouble


def test_a_crash_of_mlx_is_reported_not_shared(monkeypatch):
    monkeypatch.setattr(machine, "PROBE", "import os; os.abort()")
    assert machine.probe_mlx().device == ""
    monkeypatch.setattr(machine, "PROBE", "raise RuntimeError('no device')")
    assert "no device" in machine.probe_mlx().trouble


def test_slow_device(scene):
    healthy(machine.speed(scene(), machine.Probe("gpu")))
    ill(machine.speed(scene(), machine.Probe("cpu")), Status.WARN)
    ill(machine.speed(scene(), machine.Probe("", trouble="x")))


def test_little_memory(scene):
    healthy(machine.memory(scene(), 16 * GIB))
    ill(machine.memory(scene(), 8 * GIB), Status.WARN)
    assert machine.memory_bytes() > GIB / 4


def test_the_state_directory(scene, tmp_path):
    healthy(machine.state_directory(scene()))
    (tmp_path / "state").chmod(0o755)
    assert "chmod 700" in ill(machine.state_directory(scene()))
    (tmp_path / "state").chmod(0o700)
    (tmp_path / "state").rmdir()
    healthy(machine.state_directory(scene()))
    assert not (tmp_path / "state").exists()


# --- models -----------------------------------------------------------------------------------------------------

LLAMA = {
    "max_position_embeddings": 131072,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
}


@pytest.fixture
def model(tmp_path):
    root = tmp_path / "model"
    root.mkdir()
    (root / "config.json").write_text(json.dumps(LLAMA))
    (root / "tokenizer.json").write_text("{}")
    (root / "model.safetensors").write_bytes(b"x")
    return root


def test_a_whole_model(scene, model):
    healthy(model_files.configured_models(scene(models=(f"name={model}",))))
    healthy(model_files.configured_models(scene()))


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_model_that_will_not_load(lost, scene, model):
    (model / lost).unlink()
    ill(model_files.configured_models(scene(models=(str(model),))))


def test_a_model_with_a_missing_shard(scene, model):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors" in ill(model_files.configured_models(scene(models=(str(model),))))


def test_a_model_that_is_not_here(scene, tmp_path):
    assert "not on this machine" in ill(model_files.configured_models(scene(models=(str(tmp_path / "no"),))))


def test_a_model_that_brought_code(scene, model):
    healthy(model_files.came_with_code(scene(models=(f"name={model}",))))
    (model / "modeling.py").write_text("raise SystemExit")
    assert "name" in ill(model_files.came_with_code(scene(models=(f"name={model}",))), Status.WARN)


def test_what_a_config_says(model):
    shape = model_files.read_shape(model)
    assert shape == model_files.Shape(131072, vision=False, kv_bytes_per_token=2 * 2 * 8 * 128 * 32)
    (model / "config.json").write_text(json.dumps({"text_config": LLAMA, "vision_config": {}}))
    assert model_files.read_shape(model) == model_files.Shape(131072, True, shape.kv_bytes_per_token)
    hybrid = LLAMA | {"layer_types": ["linear_attention"] * 24 + ["full_attention"] * 8, "head_dim": 256}
    (model / "config.json").write_text(json.dumps(hybrid))
    assert model_files.read_shape(model).kv_bytes_per_token == 2 * 2 * 8 * 256 * 8


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"num_hidden_layers": "x", "head_dim": -1}', '{"text_config": 7}']
)
def test_a_damaged_config_says_nothing(text, model):
    (model / "config.json").write_text(text)
    assert model_files.read_shape(model) == model_files.Shape(0, False, 0)


@pytest.mark.parametrize(
    ("weights_gib", "total_gib", "verdict"), [(4, 16, "fits ("), (7, 16, "fits, barely"), (10, 16, "does not fit")]
)
def test_a_verdict_on_memory_before_the_load(weights_gib, total_gib, verdict, scene, model):
    local = LocalModel("m", model, weights_gib * GIB)  # plus 4 GiB of KV for 32,768 tokens
    finding = model_files.fits(scene(), [local], total_gib * GIB)
    assert verdict in (ill(finding, Status.WARN) if "not" in verdict else healthy(finding))


def test_a_configured_limit_counts_instead_of_the_machine(scene, model):
    local = LocalModel("m", model, 4 * GIB)
    ill(model_files.fits(scene(memory_limit_bytes=6 * GIB), [local], 64 * GIB), Status.WARN)
    healthy(model_files.fits(scene(), [], GIB))


# --- settings ---------------------------------------------------------------------------------------------------


def test_names_nobody_reads(scene):
    healthy(settings.unknown_names(scene()))
    assert "MLXD_X" in ill(settings.unknown_names(scene(warnings=["MLXD_X is not a setting"])), Status.WARN)


def test_names_of_other_servers(scene):
    healthy(settings.names_of_other_servers(scene({"OPENAI_API_KEY": "k", "PATH": "/"})))
    names = {"MLX_PORT": "1", "KV_BITS": "4", "MLX_MODEL_CACHE_TTL": "60", "CACHE_VLM_IMAGE_IDENTITY": "1"}
    said = ill(settings.names_of_other_servers(scene(names)), Status.WARN)
    assert "MLX_PORT: MLXD_PORT" in said and "MLX_MODEL_CACHE_TTL: MLXD_MODEL_TTL_S" in said
    assert "KV_BITS: By request" in said and "CACHE_VLM_IMAGE_IDENTITY: Not yet" in said


def test_settings_that_slow_it_down(scene):
    healthy(settings.pace(scene()))
    assert "prefill_step_tokens" in ill(settings.pace(scene(prefill_step_tokens=8192)), Status.WARN)
    ill(settings.pace(scene(max_context_tokens=1 << 20)), Status.WARN)
    ill(settings.pace(scene(debug=3)), Status.WARN)


# --- the port and the daemon ------------------------------------------------------------------------------------


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def start_listener(*words):
    """A process that listens and whose command line ends with `words`; returns it and its port."""
    code = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, int(process.stdout.readline())


def test_a_free_port(scene, listener):
    assert port_holder(listener) is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()[1]
    assert port_holder(free) is None
    healthy(network.port(scene(port=free)))
    healthy(network.port(scene(port=0)))


def test_a_foreign_process_is_named_and_left_alone(scene):
    process, port = start_listener()
    try:
        said = ill(network.port(scene(port=port)))
        assert f"process {process.pid}" in said and "not mlxd" in said and "--port" in said
        assert process.poll() is None
    finally:
        process.communicate()


def test_an_mlxd_of_another_state_directory_is_told_apart(scene):
    process, port = start_listener("mlxd", "serve")
    try:
        assert f"kill {process.pid}" in ill(network.port(scene(port=port)), Status.WARN)
    finally:
        process.communicate()


def test_our_own_daemon_may_hold_the_port(scene, listener):
    with instance.claim(scene().state):
        healthy(network.port(scene(port=listener)))


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        ("/venv/bin/python /venv/bin/mlxd serve --demo", True),
        ("python -m mlxd serve", True),
        ("/venv/bin/mlxd chat", False),
        ("vim mlxd.py", False),
        ("node serve", False),
    ],
)
def test_which_commands_are_ours(command, ours):
    assert PortHolder(1, command).is_mlxd is ours


@pytest.fixture
def answering(scene):
    """A real HTTP server with the statuses given, published as this state directory's daemon."""
    servers = []

    def start(statuses):
        class Answers(BaseHTTPRequestHandler):
            def do_GET(self):
                status, body = statuses[self.path]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(body).encode())

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        instance.publish(scene().state, f"http://127.0.0.1:{server.server_port}")

    with instance.claim(scene().state):
        yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_daemon_that_answers(scene, answering):
    answering({"/health/ready": (200, {}), "/health/live": (200, {})})
    healthy(network.daemon(scene()))


def test_a_daemon_that_is_loading(scene, answering):
    answering({"/health/ready": (503, {"reason": "model_loading"}), "/health/live": (200, {})})
    assert "model_loading" in ill(network.daemon(scene()), Status.WARN)


def test_a_daemon_whose_engine_hangs(scene, answering):
    answering({"/health/ready": (503, {}), "/health/live": (503, {})})
    assert "kill" in ill(network.daemon(scene()))


def test_a_daemon_that_holds_the_lock_and_does_not_answer(scene, answering, listener):
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = server.getsockname()[1]
    instance.publish(scene().state, f"http://127.0.0.1:{dead}")
    assert "does not answer" in ill(network.daemon(scene()))


def test_a_daemon_that_does_not_listen_yet(scene):
    with instance.claim(scene().state):
        ill(network.daemon(scene()), Status.WARN)


def test_no_daemon_explains_connection_refused(scene):
    write_private(scene().state.daemon, '{"pid": 1, "url": "http://127.0.0.1:9"}')  # left by a killed one
    assert "connection refused" in healthy(network.daemon(scene()))


def test_a_proxy_in_the_environment_does_not_get_between(scene, answering, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    answering({"/health/ready": (200, {}), "/health/live": (200, {})})
    healthy(network.daemon(scene()))


@pytest.mark.parametrize("name", ["OPENAI_BASE_URL", "MLX_LM_URL"])
def test_base_urls_without_v1(name, scene):
    for url in ("http://127.0.0.1:8080", "http://localhost:8080/"):
        assert "/v1" in ill(network.client_addresses(scene({name: url})), Status.WARN)
    for url in ("http://127.0.0.1:8080/v1", "http://127.0.0.1:8080/v1/", "https://api.example/x", "", "http://[", "x"):
        healthy(network.client_addresses(scene({name: url})))


def test_the_anthropic_dialect_is_not_here_yet(scene):
    environ = {"ANTHROPIC_BASE_URL": "http://localhost:8080/anthropic"}
    ill(network.client_addresses(scene(environ)), Status.WARN)


# --- the round --------------------------------------------------------------------------------------------------


def test_a_broken_check_does_not_hide_the_others(scene):
    def broken(_scene):
        raise RuntimeError("secret detail")

    findings = examine(scene(), (broken, settings.pace))
    assert [finding.status for finding in findings] == [Status.FAIL, Status.OK]
    assert "RuntimeError" in findings[0].what and "secret" not in findings[0].what


def test_names_are_unique_here(scene):
    findings = examine(
        scene(port=0), tuple(check for check in CHECKS if check not in (machine.speed, model_files.fits))
    )
    assert len({finding.name for finding in findings}) == len(findings)
    assert [finding for finding in findings if finding.status is Status.FAIL] == []


def test_every_check_is_in_the_troubleshooting_page(scene):
    page = (HOME / "docs" / "troubleshooting.md").read_text()
    for finding in examine(scene(port=0), tuple(check for check in CHECKS if check is not machine.speed)):
        assert f"`{finding.name}`" in page, finding.name


# --- other people -----------------------------------------------------------------------------------------------


def test_without_keys_a_machine_is_one_persons(scene, monkeypatch):
    monkeypatch.setattr(other_people, "count_people", lambda: 1)
    healthy(other_people.who_can_use_it(scene(require_key=False)))
    monkeypatch.setattr(other_people, "count_people", lambda: 2)
    assert "mlxd keys add" in ill(other_people.who_can_use_it(scene(require_key=False)), Status.WARN)
    healthy(other_people.who_can_use_it(scene(require_key=True)))
    assert "2 people" in healthy(other_people.who_can_use_it(scene()))

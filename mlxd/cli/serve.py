"""`mlxd serve`: what must be true before the heavy part is imported, quickest refusals first."""

from __future__ import annotations

import errno
import importlib
import os
import socket
import sys
from typing import Any

import click

from mlxd.cli.options import KnobCommand, knob_options, read_settings
from mlxd.config import Config, model_argument, refuse_exposed_host
from mlxd.start_errors import InvalidSetting, PortTaken


@click.command(cls=KnobCommand)
@knob_options
def serve(**flags: Any) -> None:
    """Serve models to clients of the OpenAI API.

    A MODEL that is not on this machine and looks like owner/name is downloaded first. Every setting can also be given
    as the variable named in brackets, in the environment or in the state directory's `.env`.
    """
    from mlxd.instance import claim
    from mlxd.paths import harden_process, open_state_dir, resolve_state_dir
    from mlxd.shadowing import refuse_shadowed_packages

    harden_process()
    refuse_shadowed_packages()
    state = open_state_dir(resolve_state_dir(flags.get("state_dir"), os.environ))
    config = read_settings(flags).config
    refuse_exposed_host(config)
    with claim(state):
        refuse_taken_port(config)
        for text in config.models:
            make_local(text, config)
        code: int = importlib.import_module("mlxd.daemon").run(config)
    sys.exit(code)


def refuse_taken_port(config: Config) -> None:
    """Raises `PortTaken`, which names who holds the port where that can be found out. Nobody is stopped for it."""
    if config.port == 0:
        return
    host = config.host.removeprefix("[").removesuffix("]")
    family, kind, protocol, _, address = socket.getaddrinfo(host, config.port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _taken(config.port) from None
            raise InvalidSetting(f"--host {config.host[:64]} port {config.port}: {error.strerror}.") from None


def _taken(port: int) -> PortTaken:
    from mlxd.doctor.port_holder import port_holder

    holder = port_holder(port)
    return PortTaken(
        f"Port {port} is already in use by {holder.describe() if holder else 'another process'}.",
        cure="Choose another with --port, or stop that process; `mlxd doctor` tells more.",
    )


def make_local(text: str, config: Config) -> None:
    """Sees to it that a `--model` is on this machine, downloading it if need be. Raises `InvalidSetting`."""
    from inference.errors import InferenceError
    from mlxd.catalog import download, find_local

    source = model_argument(text).source
    path = find_local(source)
    try:
        if path is None:
            if source.startswith((".", "/", "~")):
                raise InvalidSetting(f"--model {source[:200]}: there is no such directory.")
            click.echo(f"Downloading {source} from {config.hf_endpoint} (once; it is kept on this machine).", err=True)
            path = download(source, endpoint=config.hf_endpoint)
    except InferenceError as error:
        raise InvalidSetting(
            f"--model {source[:200]}: {error.message}", cure="`mlxd models` lists what is here; --demo needs nothing."
        ) from None
    if not (path / "config.json").is_file() or not any(path.glob("*.safetensors")):
        raise InvalidSetting(
            f"--model {source[:200]}: {path} has no config.json with safetensors weights.",
            cure="Point --model at the directory that holds config.json, or at a repository of an MLX model.",
        )

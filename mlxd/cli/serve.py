"""`mlxd serve`: what must be true before the heavy part is imported, quickest refusals first."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlxd.cli.options import KnobCommand, knob_options, read_settings
from mlxd.config import Config, refuse_exposed_host
from mlxd.start_errors import InvalidSetting, PortTaken

if TYPE_CHECKING:
    from mlxd.transport import PortInUse


@click.command(cls=KnobCommand)
@knob_options
def serve(**flags: Any) -> None:
    """Serve models to clients of the OpenAI API.

    A MODEL that is not on this machine and looks like owner/name is downloaded first. Without --model and --demo every
    model in the Hugging Face cache is served. Every setting can also be given as the variable named in brackets, in
    the environment or in the state directory's `.env`.
    """
    from mlxd.instance import claim
    from mlxd.paths import harden_process, open_state_dir, resolve_state_dir
    from mlxd.shadowing import leave_foreign_paths, refuse_shadowed_packages

    harden_process()
    refuse_shadowed_packages()
    leave_foreign_paths()
    state = open_state_dir(resolve_state_dir(flags.get("state_dir"), os.environ))
    with claim(state):  # before the settings, whose validation takes 0.3 s to import
        loaded = read_settings(flags)
        config = loaded.config
        refuse_exposed_host(config)
        refuse_taken_port(config)
        if config.models:
            fetch_models(config)
        live = importlib.import_module("mlxd.live_settings").LiveSettings(loaded, state.saved_settings)
        code: int = importlib.import_module("mlxd.daemon").run(config, live=live)
    sys.exit(code)


def refuse_taken_port(config: Config) -> None:
    """Raises `PortTaken`, which names who holds the port where that can be found out. Nobody is stopped for it."""
    if config.port == 0:
        return
    from mlxd.transport import BindFailed, PortInUse
    from mlxd.transport.listen import listen

    try:
        for opened in listen(config.host, config.port).sockets:
            opened.close()
    except PortInUse as error:
        raise _taken(error) from None
    except BindFailed as error:
        raise InvalidSetting(f"--host {config.host[:64]} port {config.port}: {error.reason}.") from None


def _taken(error: PortInUse) -> PortTaken:
    from mlxd.doctor.port_holder import port_holder

    holder = port_holder(error.port)
    return PortTaken(
        f"Port {error.port} of {error.host} is already in use by {holder.describe() if holder else 'another process'}.",
        cure="Choose another with --port, or stop that process; `mlxd doctor` tells more.",
    )


def fetch_models(config: Config) -> None:
    """Sees to it that every `--model` is on this machine and is a model. Raises `InvalidSetting`."""
    from inference.errors import InferenceError
    from mlxd.catalog import download, named_models
    from mlxd.catalog.names import REPO_ID
    from mlxd.cli.download_bar import DownloadBar

    def fetch(repo_id: str) -> Path:
        if not REPO_ID.fullmatch(repo_id):
            raise InvalidSetting(f"--model {repo_id[:200]}: there is no such directory, and it names no repository.")
        click.echo(f"Downloading {repo_id} from {config.hf_endpoint} (once; it is kept on this machine).", err=True)
        bar = DownloadBar()
        return download(repo_id, endpoint=config.hf_endpoint, progress=bar.progress, waiting=bar.waiting)

    try:
        named_models(config.models, demo=config.demo, fetch=fetch)
    except InferenceError as error:
        raise InvalidSetting(
            error.message, cure="`mlxd models` lists what is here; --demo needs no download."
        ) from None

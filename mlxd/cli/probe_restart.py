"""`mlxd probe restart`: what a server computes again because it was ended in between."""

from __future__ import annotations

import secrets
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlxd.start_errors import StartError

if TYPE_CHECKING:
    from mlxd.probe.restart import Resumed
    from mlxd.probe.served import Served

MODES = ("SIGTERM", "kill -9")
NAMES = {"sigterm": MODES[:1], "kill": MODES[1:], "both": MODES}


@click.command(context_settings={"ignore_unknown_options": False})
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--mode", type=click.Choice(list(NAMES)), default="both", show_default=True, help="How it is ended.")
@click.option("--base-url", help="Where COMMAND answers.  [default: http://127.0.0.1:{port}/v1]")
@click.option("--pid", type=click.IntRange(2), help="A server that runs: the process to end. One mode only.")
@click.option("-m", "--model", help="Model to ask for, and to serve where no COMMAND is given.  [default: the first]")
@click.option("--tokenizer", help="The model's directory or Hub name, for its tokenizer and template.")
@click.option("--conversations", type=click.IntRange(1), default=3, show_default=True, help="How many are held.")
@click.option("--turns", type=click.IntRange(1), default=3, show_default=True, help="Of each, before the end.")
@click.option("--max-tokens", type=click.IntRange(1), default=32, show_default=True, help="Length of each answer.")
@click.option(
    "--min-cached", type=click.FloatRange(0, 1), default=0.97, show_default=True, help="Of the prompt, after SIGTERM."
)
@click.option(
    "--max-beyond",
    type=click.IntRange(0),
    default=255,
    show_default=True,
    help="Tokens that each conversation may compute again after kill -9.",
)
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File that holds the server's key.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write everything there (- is stdout).")
def restart(
    command: tuple[str, ...],
    mode: str,
    base_url: str | None,
    pid: int | None,
    model: str | None,
    tokenizer: str | None,
    conversations: int,
    turns: int,
    max_tokens: int,
    min_cached: float,
    max_beyond: int,
    api_key_file: Path | None,
    json_path: Path | None,
) -> None:
    """End a server and start it again; exit code 1 when it computes too much of a conversation again.

    COMMAND is started, held to conversations, ended, started again. It must be the server itself, not a script that
    starts one; {port} in it is a free port. Without COMMAND a mlxd of its own serves the --model, or the demo. With
    --pid the server of --base-url is ended, and started again by COMMAND, or by whoever looks after it.

    \b
    mlxd probe restart
    mlxd probe restart --tokenizer DIR -- mlx_lm.server --model DIR --port {port}
    """
    from mlxd.cli.chat import read_key
    from mlxd.cli.chat_stream import ChatError, ChatServer
    from mlxd.cli.probe import text_of, write
    from mlxd.probe import restart as restarts
    from mlxd.probe.client import ProbeFailed
    from mlxd.probe.oracle import Oracle
    from mlxd.probe.run import Target

    _refuse_contradiction(pid, base_url, mode)
    key = read_key(api_key_file)
    found: list[Resumed] = []
    try:
        with _served(command, base_url, pid, model, key) as served, served:
            with ChatServer.at(served.base_url, key) as server:
                name = model if model and (command or pid) else server.first_model()
            target = Target(served.base_url, name, max_tokens, key, secrets.token_hex(8))
            oracle = Oracle(text_of(tokenizer or model or name, served.base_url))
            resumed = restarts.probe(
                target, oracle, served.again, modes=NAMES[mode], conversations=conversations, turns=turns
            )
            found += resumed
    except (ChatError, ProbeFailed) as error:
        raise StartError(str(error)) from None
    told = restarts.as_json(found, min_cached, max_beyond)
    if json_path is not None:
        write(json_path, told)
    if json_path is None or str(json_path) != "-":
        click.echo("\n".join(restarts.lines(found, min_cached, max_beyond)))
    sys.exit(0 if told["passed"] else 1)


def _refuse_contradiction(pid: int | None, base_url: str | None, mode: str) -> None:
    if pid is not None and base_url is None:
        raise StartError("--pid says whom to end, and not where it answers.", cure="Add --base-url.")
    if pid is not None and mode == "both":
        raise StartError("Behind the first end the process is another one.", cure="Add --mode sigterm or --mode kill.")


@contextmanager
def _served(
    command: Sequence[str], base_url: str | None, pid: int | None, model: str | None, key: str
) -> Iterator[Served]:
    from mlxd.cli.chat_stream import complete_base_url
    from mlxd.probe.served import PORT, Served, free_port

    port = str(free_port())
    with tempfile.TemporaryDirectory(prefix="mlxd-probe-") as made:
        if not command and pid is None:
            command = _own(Path(made) / "state", model)
        command = [word.replace(PORT, port) for word in command]
        url = complete_base_url((base_url or f"http://127.0.0.1:{PORT}").replace(PORT, port))
        if command and base_url is None and port not in " ".join(command):
            raise StartError(
                f"Nothing says where it will answer: {shlex.join(command)[:200]}",
                cure="Write {port} where its port stands, or add --base-url.",
            )
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        yield Served(url, command, pid or 0, headers=headers)


def _own(state: Path, model: str | None) -> list[str]:
    """A mlxd of this very installation, with a state directory of its own."""
    served = ["--model", model] if model not in (None, "demo") else ["--demo"]
    return [sys.executable, "-P", "-m", "mlxd", "serve", *served, "--port", "{port}", "--state-dir", str(state)]

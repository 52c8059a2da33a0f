"""`mlxd probe`: how many tokens a server computes twice, and where two requests part."""

from __future__ import annotations

import json
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mlxd.cli.options import state_dir_option
from mlxd.cli.probe_restart import restart
from mlxd.probe.scenarios import SCENARIOS
from mlxd.start_errors import StartError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from inference.conversation.text_model import TextModel
    from mlxd.probe.asks import Ask
    from mlxd.probe.oracle import Oracle
    from mlxd.probe.recording import Recorded
    from mlxd.probe.traffic import Replay


class ProbeGroup(click.Group):
    """`mlxd probe SCENARIO ...` without a word for "run"."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ("-h", "--help")):
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(cls=ProbeGroup)
def probe() -> None:
    """Measure how many tokens a server computes twice.

    `mlxd probe` plays all scenarios against the mlxd on this machine, `mlxd probe normal fanout` those two,
    `--traffic DIR` what clients were recorded to send, `--base-url` against any server of the OpenAI chat API.
    `mlxd probe diff A B` says where two requests part, `mlxd probe restart` what is computed again behind an end.
    """


probe.add_command(restart)


@probe.command()
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option("--base-url", help="Server under test.  [default: the mlxd on this machine]")
@click.option("-m", "--model", help="Model to ask for.  [default: the first the server lists]")
@click.option("--tokenizer", help="The model's directory or Hub name, for its tokenizer and template.")
@click.option("--max-ratio", type=float, default=1.02, show_default=True, help="Prefilled / necessary, at most.")
@click.option("--max-tokens", type=click.IntRange(1), default=32, show_default=True, help="Length of each answer.")
@click.option(
    "--traffic",
    type=click.Path(path_type=Path),
    help="Folder of recorded requests (CLIENT/RUN.jsonl) to play instead; SCENARIO names clients of it then.",
)
@click.option("--requests", type=click.IntRange(1), help="At most so many requests of each recorded client.")
@click.option("--max-prompt-tokens", type=click.IntRange(1), help="Leave longer recorded requests out.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="File that holds the server's key.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write everything there (- is stdout).")
@state_dir_option
def run(
    scenarios: tuple[str, ...],
    base_url: str | None,
    model: str | None,
    tokenizer: str | None,
    max_ratio: float,
    max_tokens: int,
    traffic: Path | None,
    requests: int | None,
    max_prompt_tokens: int | None,
    api_key_file: Path | None,
    json_path: Path | None,
    state_dir: str | None,
) -> None:
    """Play scenarios; exit code 1 when one is above the limit or uses cache that it cannot have."""
    from mlxd.cli.chat import local_url, read_key
    from mlxd.cli.chat_stream import ChatError, ChatServer, complete_base_url
    from mlxd.probe.client import ProbeFailed
    from mlxd.probe.oracle import Oracle
    from mlxd.probe.report import as_json, lines, summaries
    from mlxd.probe.run import Target, play_all

    recordings = None if traffic is None else _recordings(traffic)
    known = SCENARIOS if recordings is None else {one.client: one for one in recordings}
    if unknown := [name for name in scenarios if name not in known]:
        what = "scenario" if traffic is None else "client in these recordings called"
        raise StartError(f"There is no {what} {unknown[0]}.", cure=f"There are: {', '.join(known)}.")
    key = read_key(api_key_file)
    try:
        with ChatServer.at(complete_base_url(base_url or local_url(state_dir)), key) as server:
            model = model or server.first_model()
            url = server.base_url
        target, oracle = (
            Target(url, model, max_tokens, key, secrets.token_hex(8)),
            Oracle(text_of(tokenizer or model, url)),
        )
        replays = _replays(recordings or (), scenarios, oracle, requests, max_prompt_tokens)
        chosen = {name: SCENARIOS[name] for name in scenarios or SCENARIOS} if recordings is None else {}
        turns = []
        for turn in play_all(target, {**chosen, **{name: one.play for name, one in replays.items()}}, oracle):
            turns.append(turn)
            if sys.stderr.isatty():
                click.echo(f"\r{turn.scenario} {len(turns)}\x1b[K", nl=False, err=True)
    except (ChatError, ProbeFailed) as error:
        raise StartError(str(error)) from None
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)
    told = summaries(turns)
    found = as_json(turns, max_ratio)
    if json_path is not None:
        write(json_path, found)
    if json_path is None or str(json_path) != "-":
        click.echo("\n".join([*lines(told, max_ratio), *(one.note for one in replays.values() if one.note)]))
    sys.exit(0 if found["passed"] else 1)


def _recordings(folder: Path) -> list[Recorded]:
    from mlxd.probe.recording import NotRecordings, read

    try:
        return [one for one in read(folder.expanduser()) if one.exchanges]
    except (NotRecordings, OSError) as error:
        raise StartError(f"--traffic: {error}") from None


def _replays(
    recordings: Iterable[Recorded],
    names: Collection[str],
    oracle: Oracle,
    requests: int | None,
    max_prompt_tokens: int | None,
) -> dict[str, Replay]:
    """By client; `names` are those to play, none: all."""
    from mlxd.probe.traffic import Replay

    def fits(ask: Ask) -> bool:
        return len(oracle.prompt(ask)) <= (max_prompt_tokens or oracle.text.context_tokens)

    return {one.client: Replay(one, fits, requests) for one in recordings if not names or one.client in names}


@probe.command()
@click.argument("left")
@click.argument("right")
@click.option("-m", "--model", help="The model's directory or Hub name, or `demo`; not for turns.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def diff(left: str, right: str, model: str | None, as_json: bool, state_dir: str | None) -> None:
    """Say where two requests part: message, field, token and the texts there.

    LEFT and RIGHT are files with a request body, or FILE:LINE of a recording with one JSON object a line, or the ids of
    two turns in the ledger of the mlxd on this machine, which keeps hashes of them. Exit code 1 when they differ.
    """
    from mlxd.probe.turns import TURN_ID

    if TURN_ID.fullmatch(left) and TURN_ID.fullmatch(right):
        _diff_turns(left, right, as_json, state_dir)
    if model is None:
        raise StartError("Two bodies are compared as a model reads them.", cure="Name it: --model DIRECTORY_OR_NAME.")
    from dataclasses import asdict

    from inference.errors import InferenceError
    from mlxd.probe.diff import part

    text = text_of(model, "")
    try:
        parting = part(text, _body(left), _body(right))
    except InferenceError as error:
        raise StartError(f"One of the two is no chat request: {error}") from None
    same = parting.token is None and parting.left.tokens == parting.right.tokens
    if as_json:
        click.echo(json.dumps(asdict(parting) | {"message": parting.message}, indent=2, ensure_ascii=False))
    elif same:
        click.echo(f"The model reads the same {parting.common_tokens} tokens of both.")
    else:
        click.echo(f"{parting.common_tokens} tokens in common, of {parting.left.tokens} and {parting.right.tokens}.")
        click.echo(f"before: ...{parting.before!r}")
        for name, side in (("left", parting.left), ("right", parting.right)):
            click.echo(f"{name + ':':<7} {side.text!r}\n        from {side.path or 'the template'}")
    sys.exit(0 if same else 1)


def _diff_turns(left: str, right: str, as_json: bool, state_dir: str | None) -> NoReturn:
    from mlxd.cli.admin_api import ask
    from mlxd.paths import StateDir, resolve_state_dir
    from mlxd.probe.turns import lines, same

    found = ask(StateDir(resolve_state_dir(state_dir, os.environ)), "GET", f"/api/turns/{left}/against/{right}")
    if found is None:
        raise StartError("No mlxd runs here: it is asked about its turns.", cure="Start it: mlxd serve.")
    click.echo(json.dumps(found, indent=2, ensure_ascii=False) if as_json else "\n".join(lines(found)))
    sys.exit(0 if same(found) else 1)


def text_of(model: str, url: str) -> TextModel:
    from inference.engine.demo import DEMO_MODEL_ID, demo_model_dir
    from inference.engine.text import load_text
    from mlxd.catalog import find_local

    path = demo_model_dir() if model in ("demo", DEMO_MODEL_ID) else find_local(model)
    if path is None:
        where = f" The server at {url} says the model is {model!r}." if url else ""
        raise StartError(
            f"The tokenizer of {model!r} is not on this machine, so what is necessary cannot be known.{where}",
            cure="Name it: --tokenizer DIRECTORY_OR_HUB_NAME.",
        )
    return load_text(path)


def _body(where: str) -> dict[str, Any]:
    """A request body from a file, or from one line of a recording."""
    path, _, line = where.rpartition(":") if where.rpartition(":")[2].isdigit() else (where, "", "")
    try:
        text = Path(path).expanduser().read_text()
        value = json.loads(text.splitlines()[int(line) - 1] if line else text)
        body = value.get("body", value) if isinstance(value, dict) else None
        body = json.loads(body) if isinstance(body, str) else body
    except (OSError, ValueError, IndexError) as error:
        raise StartError(f"{where}: {getattr(error, 'strerror', None) or 'no JSON object there'}.") from None
    if not isinstance(body, dict) or "messages" not in body:
        raise StartError(f"{where}: no chat request there (an object with `messages`).")
    return body


def write(path: Path, found: dict[str, Any]) -> None:
    text = json.dumps(found, indent=2)
    if str(path) == "-":
        click.echo(text)
        return
    try:
        path.expanduser().write_text(text + "\n")
    except OSError as error:
        raise StartError(f"--json {path}: {error.strerror}.") from None

"""`mlxd cache export` and `import`: what is stored, in one file, to another machine or state directory."""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from mlxd.cli.options import state_dir_option
from mlxd.paths import StateDir, resolve_state_dir
from mlxd.start_errors import StartError

if TYPE_CHECKING:
    from inference.cache.archive import Contents
    from inference.cache.archive_make import Choice, Made, Shelf

MIB = 2**20
DISK_SHARE = 0.9
"""No disk is filled further than that."""
PRIVATE = "It holds what was said, for whoever can read it: keep it as private as the conversations."


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--all", "everything", is_flag=True, help="All that is on the disk, saved conversations too.")
@click.option("-m", "--model", help="All of a model, by the name it was served under (`mlxd cache ls`).")
@click.option("--session", help="One saved conversation, by its id.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def export(
    file: Path, everything: bool, model: str | None, session: str | None, as_json: bool, state_dir: str | None
) -> None:
    """Write what is on the disk into one FILE, which `import` takes in elsewhere.

    A running mlxd is not disturbed. The file is readable by you alone, and holds what was said. Exit code 1 when a
    stored file was broken and is not in it.
    """
    if sum(map(bool, (everything, model, session))) != 1:
        raise StartError("Say what to export.", cure="One of --all, --model NAME and --session ID.")
    from inference.cache.archive_make import Made, Shelf
    from inference.engine.block_file import SafetensorsCodec

    file = file.expanduser().absolute()
    shelf, made = Shelf(state_of(state_dir).prefixes, SafetensorsCodec()), Made()
    try:
        choice = _chosen(shelf, model, session)
        refuse_full_disk(file.parent, choice.nbytes)
        with _fresh(file) as opened:
            _write(shelf, choice, opened, made)
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}.") from None
    _tell_made(file, choice, made, as_json)
    sys.exit(1 if made.left_out else 0)


def state_of(state_dir: str | None) -> StateDir:
    """The state directory of a command that only looks; nothing is created."""
    return StateDir(resolve_state_dir(state_dir, os.environ))


def _chosen(shelf: Shelf, model: str | None, session: str | None) -> Choice:
    if session is not None:
        choice = shelf.conversations(lambda saved: session in (saved.id, f"conv_{saved.name}"))
        cure = "Save it first: POST /v1/conv_kv/save. `mlxd cache export --all` takes what is not saved too."
    else:
        choice, cure = shelf.everything(model or ""), "`mlxd cache ls` lists what there is."
    if not choice.entries:
        raise StartError("There is nothing of that on the disk.", cure=cure)
    return choice


def _write(shelf: Shelf, choice: Choice, file: IO[bytes], made: Made) -> None:
    for done, _ in enumerate(shelf.write(choice, file, time.time(), made), 1):
        progress("exported", done, len(choice.entries))


def _tell_made(file: Path, choice: Choice, made: Made, as_json: bool) -> None:
    told = {
        "file": str(file),
        "files": made.files,
        "tokens": made.tokens,
        "bytes": made.nbytes,
        "conversations": len(choice.conversations),
        "left_out": dict(made.left_out),
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(
        f"{file}: {made.files:,} files, {made.tokens:,} tokens, {made.nbytes / MIB:,.1f} MiB,"
        f" {len(choice.conversations)} saved conversations{_counted(', left out', made.left_out)}"
    )
    click.echo(PRIVATE)


@contextmanager
def _fresh(path: Path) -> Iterator[IO[bytes]]:
    """A new private file, there under its name once it is whole. Raises `StartError` where there is one already."""
    if path.exists() or path.is_symlink():
        raise StartError(f"{path} is there already.", cure="Choose another name, or remove it.")
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.rename(path)
    finally:
        beside.unlink(missing_ok=True)


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-m", "--model", help="Take in only what this model can use: its directory or Hub name, or `demo`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@state_dir_option
def take_in(file: Path, model: str | None, as_json: bool, state_dir: str | None) -> None:
    """Take in a FILE that `export` wrote, whether mlxd runs or not.

    Every part is checked: what is damaged, or not what the file says it is, is counted and refused. So is what does not
    fit into the limits of the disk's cache. Exit code 1 when anything was refused. Take in only what you trust:
    whoever made the file has chosen what the model remembers.
    """
    from inference.cache.archive import Archive, NotAnArchive
    from inference.cache.archive_take import only
    from mlxd.cli.cache_taking import take

    try:
        with Archive.open(file.expanduser()) as archive:
            wanted = archive.contents if model is None else only(archive.contents, _weights(model))
            foreign = archive.foreign + len(archive.contents.parts) - len(wanted.parts)
            others = len(archive.contents.conversations) - len(wanted.conversations)
            files, conversations, nbytes = take(archive, wanted, state_dir)
            files["foreign"] += foreign
            conversations["foreign"] += others
    except NotAnArchive as error:
        raise StartError(f"{file}: {error}") from None
    except OSError as error:
        raise StartError(f"{file}: {error.strerror or error}.") from None
    _tell_taken(wanted, +files, +conversations, nbytes, as_json)
    sys.exit(1 if _refused(files) or _refused(conversations) else 0)


def _tell_taken(wanted: Contents, files: Counter[str], conversations: Counter[str], nbytes: int, as_json: bool) -> None:
    models = [{"model": tree.model, "weights": tree.weights} for tree in wanted.trees]
    told: dict[str, Any] = {"files": files, "bytes": nbytes, "conversations": conversations, "models": models}
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for name, counts in (("files", files), ("saved conversations", conversations)):
        refused = _counted("; refused", _refused(counts))
        click.echo(f"{counts['taken']:,} {name} taken in, {counts['known']:,} were here{refused}")
    for tree in wanted.trees:
        click.echo(f"Computed by {tree.model}; only a model with the same files goes on with it ({tree.weights[:12]}).")


def _refused(counts: Counter[str]) -> Counter[str]:
    return Counter({word: count for word, count in counts.items() if count and word not in ("taken", "known")})


def _counted(before: str, counts: Counter[str]) -> str:
    words = ", ".join(f"{count:,} {word.replace('_', ' ')}" for word, count in sorted(counts.items()))
    return f"{before}: {words}" if words else ""


def _weights(model: str) -> str:
    """The fingerprint of a model's files."""
    from inference.engine.demo import DEMO_MODEL_ID, demo_model_dir
    from inference.engine.fingerprint import fingerprint
    from inference.errors import InferenceError
    from mlxd.catalog import find_local

    path = demo_model_dir() if model in ("demo", DEMO_MODEL_ID) else find_local(model)
    if path is None:
        raise StartError(f"--model {model[:200]}: there is no such model here.", cure="`mlxd models` lists them.")
    try:
        return fingerprint(path)
    except InferenceError as error:
        raise StartError(f"--model {model[:200]}: {error.message}") from None


def refuse_full_disk(folder: Path, nbytes: int) -> None:
    """Raises `StartError` where so many bytes more would fill a disk beyond what mlxd fills one to, or `OSError`."""
    from inference.cache.disk_files import Files

    used, total = Files().used_share(folder)
    if used + nbytes > total * DISK_SHARE:
        raise StartError(
            f"{nbytes / MIB:,.0f} MiB more would leave less than a tenth of the disk of {folder} free.",
            cure="Free some space, or choose another disk.",
        )


def progress(what: str, done: int, of: int) -> None:
    """One line on a terminal, drawn anew."""
    if sys.stderr.isatty() and (done == of or done % 16 == 0):
        click.echo(f"\r{what} {done:,} of {of:,} files\x1b[K" + ("\n" if done == of else ""), nl=False, err=True)

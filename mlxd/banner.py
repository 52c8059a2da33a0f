"""What a person sees when the daemon is ready: where it is and how to point a client at it."""

from __future__ import annotations

from collections.abc import Sequence

from mlxd import __version__
from mlxd.config import Config


def start_banner(
    config: Config,
    url: str,
    models: Sequence[str],
    people: int = 0,
    missing: Sequence[tuple[str, str]] = (),
) -> str:
    """The text for a terminal. `url` is where the daemon listens, `models` the ids that clients may name, `people` how
    many have accounts here where a key is required for that reason, else 0. `missing` are addresses that could not be
    listened on, with the reason."""
    served = ", ".join(models) if models else "none on this machine: start with --demo or --model"
    lines = [
        f"mlxd {__version__} is ready at {url}",
        *(f"  not at   {address}: {reason}" for address, reason in missing),
        f"  model{'s' if len(models) > 1 else ''}    {served}",
        f"  clients  OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY={'KEY' if config.require_key or people else 'any'}",
        *_about_keys(config, people),
        f"  try      mlxd chat{_chat_flags(config, url)}",
        f"  state    {config.state_dir}",
        "  stop     Ctrl-C",
    ]
    return "\n".join(lines)


def _about_keys(config: Config, people: int) -> list[str]:
    if not (config.require_key or people):
        return []
    why = f": {people} people have accounts on this machine" if people else ""
    choice = "; --no-require-key asks for none" if people else ""
    return [f"  keys     required{why}. mlxd keys add NAME makes one{choice}"]


def _chat_flags(config: Config, url: str) -> str:
    """`mlxd chat` finds the daemon of the default state directory; others it must be told."""
    from mlxd.paths import resolve_state_dir

    return "" if config.state_dir == resolve_state_dir(None, {}) else f" --base-url {url}/v1"

"""Which addresses only this machine can reach, and what it takes to listen on another."""

from __future__ import annotations

import ipaddress

from mlxd.config.knobs import Config
from mlxd.start_errors import InvalidSetting

TUNNEL = "or leave `host` alone and reach it from elsewhere by `ssh -L 8080:127.0.0.1:8080`."


def is_loopback(host: str) -> bool:
    """Whether a bind address is out of reach of other machines. A name other than `localhost` is not trusted to be."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def is_unspecified(host: str) -> bool:
    """Whether a bind address stands for all of the machine's, so that nobody can be told to connect to it."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_unspecified
    except ValueError:
        return False


def reachable(host: str) -> str:
    """The host of a URL at which this machine reaches a daemon that listens on `host`. Never `localhost`: that may lead
    to an address which we do not have, and somebody else does."""
    if host == "localhost":
        return "127.0.0.1"
    bare = host.removeprefix("[").removesuffix("]")
    if is_unspecified(host):
        bare = "::1" if ":" in bare else "127.0.0.1"
    return f"[{bare}]" if ":" in bare else bare


def refuse_exposed_host(config: Config) -> None:
    """Raises `InvalidSetting` for an address other machines can reach, unless whoever comes has to bring a key."""
    if not is_loopback(config.host) and not config.require_key:
        raise InvalidSetting(
            f"host {config.host[:64]!r} can be reached from other machines. That takes two settings, `host` and"
            " `require_key`, and at least one key.",
            cure=f"mlxd keys add NAME, then start with --require-key; {TUNNEL}",
        )


def refuse_unguarded(config: Config, *, has_key: bool) -> None:
    """Raises `InvalidSetting` where other machines could reach a daemon that has no key yet to let anybody in."""
    if not is_loopback(config.host) and not has_key:
        raise InvalidSetting(
            f"host {config.host[:64]!r} can be reached from other machines, and there is no key yet (or all have"
            " expired).",
            cure=f"mlxd keys add NAME, then start again; {TUNNEL}",
        )

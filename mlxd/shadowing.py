"""Does Python import what came with this mlxd? `inference` and `dashboard` also exist on package indexes, and whoever
set PYTHONPATH for another program put that one's packages before ours."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from importlib.machinery import PathFinder
from pathlib import Path

import mlxd
from mlxd.start_errors import ShadowedPackage

SIBLINGS = ("inference", "dashboard")
_HOOKS = ("sitecustomize", "usercustomize")


def shadowed_packages(search_path: list[str] | None = None) -> dict[str, Path | None]:
    """The packages that would be imported from elsewhere, with the place; None is nowhere. Imports nothing."""
    home = Path(mlxd.__file__).resolve().parent.parent
    found = {name: _place(name, search_path) for name in SIBLINGS}
    return {name: place for name, place in found.items() if place is None or place.parent != home}


def refuse_shadowed_packages() -> None:
    """Raises `ShadowedPackage` naming the impostor's place."""
    for name, place in shadowed_packages().items():
        where = f"would be imported from {place}" if place else "is missing"
        raise ShadowedPackage(
            f"mlxd's package `{name}` {where}.",
            cure="Start mlxd from another directory, unset PYTHONPATH, or uninstall the other package.",
        )


def leave_foreign_paths(
    environ: MutableMapping[str, str] | None = None, search_path: list[str] | None = None
) -> list[str]:
    """Takes the places that PYTHONPATH names off the search path, for this process and for those it starts; which.

    The one mlxd itself lies in stays. Raises `ShadowedPackage` where a package of ours was imported from there already.
    What debuggers and editors bring in beside ours stays: it came in by `sitecustomize`, before anybody could ask.
    """
    environment = os.environ if environ is None else environ
    searched = sys.path if search_path is None else search_path
    home = Path(mlxd.__file__).resolve().parent.parent
    named = [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place]
    foreign = [place for place in named if Path(place).resolve() != home]
    if not foreign:
        return []
    searched[:] = [place for place in searched if place not in set(map(_spelled_out, foreign))]
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if _is_below(file, foreign) and not _ours(file, home) and _shadows(name, searched):
            raise ShadowedPackage(f"Python has imported {name} from {file}.", cure="Unset PYTHONPATH.")
    if len(foreign) < len(named):
        environment["PYTHONPATH"] = str(home)
    else:
        del environment["PYTHONPATH"]
    return foreign


def _spelled_out(place: str) -> str:
    """As Python has it on its path: without turns, and with its links."""
    return os.path.abspath(place)  # noqa: PTH100  resolve() would follow the links


def _is_below(file: str, places: list[str]) -> bool:
    return any(file and Path(file).is_relative_to(_spelled_out(place)) for place in places)


def _shadows(module: str, search_path: list[str]) -> bool:
    """Whether one of that name would be found without what PYTHONPATH names."""
    package = module.partition(".")[0]
    return package not in _HOOKS and PathFinder.find_spec(package, search_path) is not None


def _ours(file: str, home: Path) -> bool:
    """Whether a module belongs to mlxd or to the Python it is installed in, wherever PYTHONPATH points."""
    return any(Path(file).resolve().is_relative_to(place) for place in (home, Path(sys.prefix), Path(sys.base_prefix)))


def _place(name: str, search_path: list[str] | None) -> Path | None:
    spec = PathFinder.find_spec(name, search_path)
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]).resolve() if places else None

"""The Python that runs mlxd: its version, its virtual environment, its packages."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from mlxd import __version__
from mlxd.doctor.findings import Finding, Scene, fail, ok, warn
from mlxd.shadowing import shadowed_packages

SHOWN = ("mlx", "mlx-metal", "mlx-cpu", "mlx-lm", "mlx-vlm", "django", "daphne", "huggingface-hub", "tokenizers")
PYTHON_NAME = re.compile(r"python(\d+)\.(\d+)")
OLDEST, TOO_NEW = (3, 12), (3, 15)


def versions(_scene: Scene) -> Finding:
    """What is installed, for a bug report."""
    found = [f"{name} {version}" for name in SHOWN if (version := _version(name))]
    python = ".".join(map(str, sys.version_info[:3]))
    return ok("versions", f"mlxd {__version__}, Python {python}, {sys.platform}, {', '.join(found)}")


def python_version(_scene: Scene, running: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """mlxd runs on 3.12 to 3.14; a newer one has no wheels yet for what mlxd needs."""
    shown = ".".join(map(str, running))
    if OLDEST <= running < TOO_NEW:
        return ok("python", f"Python {shown}")
    return fail(
        "python",
        f"Python {shown} is not supported.",
        "Install mlxd under Python 3.12: uv tool install --python 3.12 mlxd",
    )


def virtual_environment(_scene: Scene, prefix: Path | None = None) -> Finding:
    """Another Python's binaries or packages in the venv: a stray `python3.14 -m pip` mixes two sets of wheels."""
    root = prefix or Path(sys.prefix)
    if not (root / "pyvenv.cfg").is_file():
        return ok("venv", "not in a virtual environment")
    strays = list(_strays(root, sys.version_info[:2]))
    if not strays:
        return ok("venv", f"{root} holds one Python")
    return fail(
        "venv",
        f"{root} holds files of another Python: {', '.join(strays[:5])}{' …' if len(strays) > 5 else ''}.",
        f"Make it anew: rm -r {root}, then install mlxd again.",
    )


def _strays(root: Path, running: tuple[int, int]) -> Iterable[str]:
    for folder in (root / "bin", root / "lib"):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            found = PYTHON_NAME.match(path.name)
            if found and (int(found[1]), int(found[2])) != running:
                yield str(path.relative_to(root))
    shebang = f"python{running[0]}.{running[1]}"
    for name in ("pip", "pip3"):
        script = root / "bin" / name
        if script.is_file() and not script.is_symlink():
            used = PYTHON_NAME.search(script.read_bytes()[:200].split(b"\n")[0].decode(errors="replace"))
            if used and used[0] != shebang:
                yield f"bin/{name} (runs {used[0]})"


def requirements(_scene: Scene, wanted: Iterable[str] | None = None) -> Finding:
    """Every package mlxd asks for is here, and new enough."""
    wrong = [text for line in (wanted if wanted is not None else _wanted()) if (text := _unmet(line))]
    if not wrong:
        return ok("packages", "everything mlxd needs is installed")
    return fail(
        "packages", f"{'; '.join(wrong)}.", "Install mlxd again: uv sync (a clone) or uv tool install --force mlxd"
    )


def _wanted() -> list[str]:
    try:
        return metadata.requires("mlxd") or []
    except metadata.PackageNotFoundError:
        return []


def _unmet(line: str) -> str:
    need = Requirement(line)
    if need.marker and not need.marker.evaluate({"extra": ""}):
        return ""
    version = _version(need.name)
    if version is None:
        return f"{need.name} is not installed"
    return (
        ""
        if need.specifier.contains(version, prereleases=True)
        else f"{need.name} is {version}, wanted {need.specifier}"
    )


def torch(_scene: Scene, version: str | None = None) -> Finding:
    """PyTorch beside MLX: two users of one Metal device, in a process that needs only one."""
    found = version or _version("torch")
    if not found:
        return ok("torch", "PyTorch is not installed, and mlxd does not need it")
    return warn(
        "torch",
        f"PyTorch {found} is installed. mlxd does not use it; beside MLX it costs memory and has crashed Metal.",
        "If vision models crash: uv pip uninstall torch torchvision",
    )


def packages_are_ours(_scene: Scene, search_path: list[str] | None = None) -> Finding:
    """`inference` and `dashboard` are siblings of `mlxd`, not a stranger's package or a folder nearby."""
    wrong = [f"{name} from {place or 'nowhere'}" for name, place in shadowed_packages(search_path).items()]
    if not wrong:
        return ok("imports", "inference and dashboard are mlxd's own")
    return fail(
        "imports",
        f"Python would import {' and '.join(wrong)}.",
        "Start mlxd from another directory, unset PYTHONPATH, or uninstall the package of that name.",
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None

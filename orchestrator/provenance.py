"""What a result depends on beside its config: versions, commit, machine. Read without importing what is named."""

from __future__ import annotations

import functools
import importlib.metadata
import pathlib
import platform
import subprocess

PACKAGES = ("tessera-sweeps", "optuna", "xmanager", "sqlalchemy")


@functools.lru_cache(maxsize=1)
def launcher_provenance() -> dict[str, str]:
    """Versions of the orchestrator's parts, Python, the platform, and the commit of the working directory."""
    found = {name: version_of(name) for name in PACKAGES}
    machine = {"python": platform.python_version(), "platform": platform.platform(terse=True), "machine": platform.machine()}
    return {name: version for name, version in found.items() if version} | machine | {"commit": commit_of(pathlib.Path.cwd())}


def version_of(package: str) -> str:
    """Installed version of a distribution; empty if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def commit_of(folder: pathlib.Path) -> str:
    """Commit that a folder stands at, with `+changes` where tracked files differ from it; `unknown` outside git."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(folder: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()

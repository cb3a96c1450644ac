"""Run by CI against an installed wheel: every data file of the checkout is in it, and the packages import from it."""

from __future__ import annotations

import importlib
import pathlib
import sys

PACKAGES = ("orchestrator", "trainers", "studies")


def main(checkout: pathlib.Path) -> int:
    installed = pathlib.Path(importlib.import_module("orchestrator").__path__[0]).parent
    if installed == checkout:
        print("the checkout was imported, not the wheel")
        return 1
    importlib.import_module("orchestrator.cli")
    importlib.import_module("trainers.config")
    wanted = [path.relative_to(checkout) for package in PACKAGES for path in (checkout / package).rglob("*") if path.is_file()]
    wanted = [path for path in wanted if "__pycache__" not in path.parts and path.suffix not in (".pyc", ".md")]
    missing = [str(path) for path in wanted if not (installed / path).exists()]
    print(
        "\n".join(["missing from the wheel:", *missing]) if missing else f"{len(wanted)} files of {len(PACKAGES)} packages are in the wheel"
    )
    return 1 if missing else 0


if __name__ == "__main__":
    raise SystemExit(main(pathlib.Path(sys.argv[1])))

"""Which way imports point, read from the files. `docs/how-it-works.md` says why."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib.metadata
import itertools
import pathlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
OURS = ("orchestrator", "trainers", "studies", "tests", "benchmarks")

# A module may import what stands before it. `report` is above `driver` in the story of a run, but knows records only.
# fmt: off
SPINE = (
    "exits", "errors", "keys", "upstream", "durable", "edits", "config", "contract", "replicates", "records", "causes", "provenance",
    "files", "axes", "designs", "ensembles", "study", "sources", "settings", "expand",
    "planned", "standings", "settling", "cells", "check_sources", "check", "load", "lineage", "plan", "diff", "estimate", "spec",
    "ledger", "inputs", "storage", "derived", "described", "progress", "plan_table", "status", "outcomes", "context", "enqueue",
    "leases", "order", "host", "worker", "nursery", "publishing", "publisher", "sync", "dashboard", "crew", "driver",
    "probing", "measure", "logbook", "neighbours", "commands", "cli",
)
# fmt: on
PORTS = ("executors", "trackers", "stopping", "samplers", "analysis", "report")
PORTS_MAY_IMPORT = frozenset({"errors", "keys", "durable", "config", "records", "axes", "replicates"})
BESIDE_THE_RULE = {"report": frozenset({"analysis"})}  # a report shows what analysis found
# Who joins ports to the spine. `expand` asks samplers for points, which are part of what a study says; rules that stop trials
# are words of a study, and `standings` asks them what follows from its outcomes.
JOINS = {
    "designs": frozenset({"stopping"}),
    "study": frozenset({"stopping"}),
    "planned": frozenset({"stopping", "analysis"}),
    "standings": frozenset({"stopping"}),
    "settling": frozenset({"analysis"}),
    "expand": frozenset({"samplers"}),
    "host": frozenset({"stopping"}),
    "worker": frozenset({"executors"}),
    "publishing": frozenset({"trackers", "report"}),
    "publisher": frozenset({"trackers"}),
    "sync": frozenset({"trackers"}),
    "nursery": frozenset({"executors"}),
    "crew": frozenset({"executors"}),
    "probing": frozenset({"executors"}),
    "measure": frozenset({"executors"}),
    "status": frozenset({"analysis"}),
    "logbook": frozenset({"analysis"}),
    "neighbours": frozenset({"executors"}),
    "commands": frozenset({"executors", "analysis", "report", "trackers"}),
    "cli": frozenset({"executors"}),  # of a run, started before anything slow is imported
}

# Where a library may be imported at all; `lazily` where it may be, but only inside a function.
HOMES = {
    "alembic": {"ledger": "lazily", "ledger.migrations": "anywhere"},
    "altair": {"report": "anywhere"},
    "jinja2": {"report": "anywhere"},
    "optuna": {"samplers": "anywhere", "expand": "lazily", "dashboard": "lazily"},
    "optuna_dashboard": {"dashboard": "lazily"},
    "pyarrow": {"report": "lazily"},
    "sqlalchemy": {"ledger": "anywhere"},
    "vl_convert": {"report": "anywhere"},
    "wandb": {"trackers": "anywhere"},
    "wandb_workspaces": {"trackers": "lazily"},
    "xmanager": {"executors": "anywhere"},
    "absl": {"executors": "anywhere"},
}
FRAMEWORKS = ("flax", "jax", "jaxlib", "optax", "orbax", "tensorflow", "tensorflow_datasets", "torch")
HEAVY = (*HOMES, *FRAMEWORKS, "scipy", "pandas", "sklearn", "matplotlib")
WITHOUT_FRAMEWORK = (
    "trainers",
    "trainers.config",
    "trainers.cost",
    "trainers.curves",
    "trainers.ensembles",
    "trainers.presets",
    "trainers.vision",
)

MAX_LINES = 600


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement: who imports what, and whether importing the file runs it."""

    file: str
    line: int
    module: str
    target: str
    at_import: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


@functools.cache
def files() -> tuple[pathlib.Path, ...]:
    folders = [ROOT / name for name in OURS if (ROOT / name).is_dir()]
    return (ROOT / "launch.py", *(path for folder in folders for path in sorted(folder.rglob("*.py"))))


@functools.cache
def imports() -> tuple[Import, ...]:
    return tuple(row for path in files() for row in imports_of(path))


def imports_of(path: pathlib.Path) -> Iterator[Import]:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    lazy = {id(inner) for node in ast.walk(tree) if is_lazy(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for target in targets(node, path):
            yield Import(
                file=str(path.relative_to(ROOT)),
                line=getattr(node, "lineno", 0),
                module=module,
                target=target,
                at_import=id(node) not in lazy,
            )


def is_lazy(node: ast.AST) -> bool:
    """A function's body runs later; a block under TYPE_CHECKING never does."""
    if isinstance(node, ast.If):
        return ast.unparse(node.test).endswith("TYPE_CHECKING")
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))


def targets(node: ast.AST, path: pathlib.Path) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = path.relative_to(ROOT).parts[: -node.level]
        base = ".".join([*package, *([base] if base else [])])
    # `from orchestrator import plan` imports a module, `from orchestrator.plan import Plan` a name of one.
    return [f"{base}.{alias.name}" if is_module(f"{base}.{alias.name}") else base for alias in node.names]


def is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return dotted.startswith(OURS) and (path.with_suffix(".py").exists() or (path / "__init__.py").exists())


def part(dotted: str) -> str:
    """Name of the spine module or port that `orchestrator.x.y` belongs to; empty for the package itself."""
    return [*dotted.split("."), ""][1]


def within(package: str) -> Iterator[Import]:
    return (row for row in imports() if row.module.split(".")[0] == package)


def listed(rows: Iterator[str] | Iterator[Import]) -> str:
    return "\n".join(dict.fromkeys(str(row) for row in rows))


def test_each_module_of_the_orchestrator_has_a_place_in_the_order() -> None:
    known = {"", *SPINE, *PORTS}
    assert not listed(f"{row.file}: place it in SPINE or PORTS" for row in within("orchestrator") if part(row.module) not in known)


def test_imports_point_down_the_spine() -> None:
    assert not listed(row for row in within("orchestrator") if part(row.module) in SPINE and not points_down(row))


def points_down(row: Import) -> bool:
    source, target = part(row.module), part(row.target)
    if not row.target.startswith("orchestrator.") or source == target:
        return True
    if target in PORTS:
        return target in JOINS.get(source, frozenset())
    return target in SPINE and SPINE.index(target) < SPINE.index(source)


def test_ports_know_records_and_not_each_other() -> None:
    assert not listed(row for row in within("orchestrator") if part(row.module) in PORTS and not port_may(row))


def port_may(row: Import) -> bool:
    source, target = part(row.module), part(row.target)
    allowed = PORTS_MAY_IMPORT | BESIDE_THE_RULE.get(source, frozenset()) | {source}
    return not row.target.startswith("orchestrator.") or target in allowed


def test_the_orchestrator_imports_no_trainer_no_study_and_no_framework() -> None:
    banned = {*FRAMEWORKS, "trainers", "studies", "tests"}
    assert not listed(row for row in within("orchestrator") if row.target.split(".")[0] in banned)


def test_trainers_know_the_contract_and_nothing_else_of_ours() -> None:
    def foreign(target: str) -> bool:
        return target.split(".")[0] in OURS and target.split(".")[0] != "trainers" and target != "orchestrator.contract"

    assert not listed(row for row in within("trainers") if foreign(row.target))


def test_studies_import_the_words_of_a_study_and_configs_only() -> None:
    allowed = ("orchestrator", "trainers.config", "trainers.presets", "trainers.curves")
    assert not listed(row for row in within("studies") if row.target.split(".")[0] in OURS and row.target not in allowed)


def test_a_library_is_imported_only_where_it_lives() -> None:
    def astray(row: Import) -> bool:
        homes, name = HOMES.get(row.target.split(".")[0]), row.module.removeprefix("orchestrator.")
        if homes is None:
            return False
        found = [how for home, how in sorted(homes.items(), reverse=True) if name == home or name.startswith(home + ".")]
        return not found or (found[0] == "lazily" and row.at_import)

    assert not listed(row for row in within("orchestrator") if astray(row))


def test_the_package_itself_exports_the_words_of_a_study_only() -> None:
    words = {"orchestrator.axes", "orchestrator.replicates", "orchestrator.designs", "orchestrator.ensembles", "orchestrator.study"}
    words |= {"orchestrator.upstream"}
    words |= {"orchestrator.stopping.halving", "orchestrator.stopping.pareto"}
    assert {row.target for row in within("orchestrator") if row.module == "orchestrator"} <= words


def declared() -> set[str]:
    """Distributions that pyproject.toml names, in any extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    rows = [*project["dependencies"], *itertools.chain.from_iterable(project["optional-dependencies"].values())]
    return {canonical(re.split(r"[^\w.-]", row)[0]) for row in rows}


def canonical(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_every_library_that_is_imported_is_declared() -> None:
    owners = importlib.metadata.packages_distributions()
    known = declared()

    def undeclared(row: Import) -> bool:
        name = row.target.split(".")[0]
        foreign = name not in OURS and name not in sys.stdlib_module_names and name != "__future__"
        return foreign and name in owners and not known & {canonical(owner) for owner in owners[name]}

    assert not listed(row for row in imports() if undeclared(row))


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["orchestrator", "orchestrator.cli", *WITHOUT_FRAMEWORK])
def test_importing_loads_no_heavy_library(module: str) -> None:
    if module == "orchestrator.cli":
        allowed: tuple[str, ...] = ("sqlalchemy",)  # the ledger's; 0.2 s
    else:
        allowed = ()
    assert loaded_by(f"import {module}") & set(HEAVY) <= set(allowed)


def test_no_file_outgrows_a_reader() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files()}
    assert not {name: lines for name, lines in sizes.items() if lines > MAX_LINES}


@pytest.mark.parametrize("name", ["utils", "common", "helpers", "misc"])
def test_no_file_is_named_after_nothing(name: str) -> None:
    assert not [str(path.relative_to(ROOT)) for path in files() if path.stem == name]


def test_every_file_starts_with_what_it_is() -> None:
    mute = [path for path in files() if path.read_text(encoding="utf-8").strip() and ast.get_docstring(ast.parse(path.read_text())) is None]
    assert not [str(path.relative_to(ROOT)) for path in mute]

"""The plan as people and machines read it: one row an arm, and what a run would do."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.diff import Change, Difference
from orchestrator.ensembles import Ensemble
from orchestrator.errors import Problem
from orchestrator.estimate import Estimate, Speed, Work
from orchestrator.keys import Json
from orchestrator.planned import Part, Plan, PlannedArm, PlannedUpstream
from orchestrator.progress import duration
from orchestrator.study import Role

MAX_ROWS = 200  # arms that the table shows; `--json` has them all
SHORT = 6  # hex digits of a signature that tables show
MAX_NAMES = 3  # arms of a program that the table names


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanView:
    """All that `plan` shows.

    Attributes:
        study: Name of the study.
        profile: Chosen profile; empty if the study has none.
        roles: Role of every config key that the study moves.
        plan: The trials.
        difference: Against the ledger.
        work: What is to be done, by program.
        speeds: Of programs, by signature, as far as anything is known of them.
        device: That the speeds are of; empty where that is not known.
        estimate: Of the time left; None where no program was measured.
        workers: That the estimate is for.
        data_problems: Why data cannot be read here.
        ensembles: Arms derived from the trials.
    """

    study: str
    profile: str
    roles: Mapping[str, Role]
    plan: Plan
    difference: Difference
    work: Sequence[Work]
    speeds: Mapping[str, Speed]
    device: str
    estimate: Estimate | None
    workers: int

    @property
    def unmeasured(self) -> list[Work]:
        """Programs with work left that were not measured on this machine."""
        return [row for row in self.work if row.signature not in self.speeds or self.speeds[row.signature].probe is None]

    data_problems: Sequence[Problem]
    ensembles: Sequence[Ensemble] = ()


def plan_json(view: PlanView) -> dict[str, Json]:
    """The plan as one JSON document, with the figures of the table and every trial."""
    total = view.difference
    return {
        "study": view.study,
        "profile": view.profile,
        "roles": {key: role.value for key, role in view.roles.items()},
        "totals": {change.value: total.count(change) for change in Change}
        | {"pending": sum(part.pending for part in view.plan.parts), "orphaned": len(total.orphaned_keys)},
        "signatures": _n_signatures(view.plan),
        "packs": sum(row.packs for row in view.work),
        "estimate_s": None if view.estimate is None else view.estimate.seconds,
        "estimate": None if view.estimate is None else dataclasses.asdict(view.estimate),
        "workers": view.workers,
        "device": view.device,
        "programs": [_program_json(view, row) for row in view.work],
        "data": [dataclasses.asdict(problem) for problem in view.data_problems],
        "arms": [_arm_json(view, arm) for arm in view.plan.arms],
        "adaptive": None if view.plan.rounds is None else view.plan.rounds.json(),
        "upstream": [_upstream_json(view, row) for row in view.plan.upstream],
        "derived": [_derived_json(view, row) for row in view.ensembles],
        "trials": [
            {
                "key": trial.key,
                "arm": trial.arm,
                "phase": trial.phase.value,
                "index": trial.index,
                "seed": trial.seed,
                "cell": trial.cell.key,
                "signature": trial.cell.signature,
                "point": dict(trial.point),
                "change": change.value,
            }
            for trial, change in view.difference.changes
        ],
        "orphaned": [{"key": place.key, "arm": place.arm, "phase": place.phase.value, "index": place.index} for place in total.orphaned],
    }


def plan_table(view: PlanView) -> RenderableType:
    """The plan for a person: a table, a sentence on what a run would do, and what is missing."""
    hidden = len(view.plan.arms) - MAX_ROWS
    more = [Text(f"… and {hidden} more arms; --json has them all")] if hidden > 0 else []
    programs = [Text(""), _program_table(view)] if view.work else []
    derived = [Text(_derived_line(view, row)) for row in view.ensembles]
    return Group(_arm_table(view), *more, *derived, *programs, Text(""), *(Text(line) for line in summary_lines(view)))


def summary_lines(view: PlanView) -> list[str]:
    """What a run would do, in sentences."""
    total = view.difference
    held = sum(1 for _ in view.plan.held)
    pending = sum(part.pending for part in view.plan.parts) - held
    todo = [f"{total.count(change)} {change.value}" for change in Change if total.count(change)]
    todo += [f"{held} to follow what they start from"] if held else []
    todo += [f"{pending} to follow from tuning"] if pending else []
    todo += [f"{len(total.orphaned_keys)} orphaned (kept)"] if total.orphaned_keys else []
    signatures = _n_signatures(view.plan)
    lines = [f"{view.study}: " + ", ".join(todo or ["nothing planned"])]
    lines += [f"replicates: {view.plan.rounds}"] if view.plan.rounds is not None else []
    left = sum(row.trials for row in view.work)
    if not left:
        return [*lines, "nothing to do"]
    lines += [f"{left} trials to run, {sum(row.packs for row in view.work)} packs, {signatures} programs"]
    lines += [_time_line(view)]
    return lines


def _n_signatures(plan: Plan) -> int:
    return len({trial.cell.signature for trial in (*plan.trials, *plan.held)})


def _time_line(view: PlanView) -> str:
    workers = f"{view.workers} worker" + ("" if view.workers == 1 else "s")
    if view.estimate is None:
        return f"time: unknown on {workers}, no program was measured here yet; `plan --probe` measures them"
    rough = f", roughly: the programs of {view.estimate.inferred} trials were not measured here (`plan --probe` does)"
    return f"time: about {duration(view.estimate.seconds)} on {workers}{rough if view.estimate.is_rough else ''}"


def _arm_table(view: PlanView) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    names = (
        "arm",
        "cells",
        "tuning",
        "replicates",
        "signature",
        "packs",
        "new",
        "changed",
        "waiting",
        "cached",
        "failed",
        "parameters",
        "GFLOPs",
    )
    for name in names:
        table.add_column(name, justify="left" if name in ("arm", "signature") else "right", no_wrap=name != "arm")
    packs = _packs_by_arm(view)
    for part in (*view.plan.upstream, *view.plan.arms[:MAX_ROWS]):
        counts = [
            view.difference.count(change, part.name)
            for change in (Change.NEW, Change.CHANGED, Change.WAITING, Change.CACHED, Change.FAILED)
        ]
        table.add_row(
            *_name_and_trials(part),
            " ".join(sorted({name[:SHORT] for name in _signatures(part)})),
            packs[part.name],
            *(str(count or "") for count in counts),
            _magnitude(part.cell.cost.get("cost/parameters")),
            _gflops(part.cell.cost.get("cost/train_gflops")),
        )
    return table


def _name_and_trials(part: Part) -> tuple[Text, str, str, str]:
    """What it is called, and how many cells, tuning trials and replicates it has."""
    if isinstance(part, PlannedUpstream):
        n = len(part.keys)
        return Text(f"{part.name} (upstream, {n} trial{'' if n == 1 else 's'})"), str(_cells(part)), "", ""
    name = Text(part.name + (" *" if part.arm.baseline else ""))
    return name, str(_cells(part)), str(part.tune_trials or ""), str(part.replicates)


def _program_table(view: PlanView) -> Table:
    """What is left by program: how it would be run, how fast it is, and how long one worker would take for it."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("program", "arms", "trials", "steps", "strategy", "width", "lane-step", "compiling", "memory", "one worker"):
        left = name in ("program", "arms", "strategy")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "arms", max_width=48 if name == "arms" else None)
    order = {part.name: number for number, part in enumerate(view.plan.parts)}
    for row in view.work[:MAX_ROWS]:
        speed = view.speeds.get(row.signature)
        arms = sorted({arm for batch in row.batches for arm in batch.arms}, key=order.__getitem__)
        names = ", ".join(arms) if len(arms) <= MAX_NAMES else f"{', '.join(arms[: MAX_NAMES - 1])}, … {len(arms) - MAX_NAMES + 1} more"
        table.add_row(row.signature[:SHORT], Text(names), str(row.trials), f"{row.steps:,}", *_speed_cells(row, speed))
    return table


def _speed_cells(row: Work, speed: Speed | None) -> list[str]:
    """An inferred figure has a tilde before it."""
    if speed is None:
        return ["not measured", "", "", "", "", ""]
    mark = "" if speed.probe is not None else "~"
    times = [f"{mark}{text}" for text in (_short_time(speed.lane_step_s), _short_time(speed.compile_s))]
    if speed.probe is None:
        return ["not measured", "", *times, "", f"~{duration(speed.alone_s(row))}"]
    memory = f"{_magnitude(speed.probe.memory_bytes)}B" if speed.probe.memory_bytes else ""
    return [speed.probe.strategy, str(speed.probe.width), *times, memory, duration(speed.alone_s(row))]


def _program_json(view: PlanView, row: Work) -> Json:
    speed = view.speeds.get(row.signature)
    return {
        "signature": row.signature,
        "arms": sorted({arm for batch in row.batches for arm in batch.arms}),
        "trials": row.trials,
        "steps": row.steps,
        "packs": row.packs,
        "probe": None if speed is None or speed.probe is None else dataclasses.asdict(speed.probe),
        "compile_s": None if speed is None else speed.compile_s,
        "lane_s": None if speed is None else speed.lane_s,
        "lane_step_s": None if speed is None else speed.lane_step_s,
        "one_worker_s": None if speed is None else speed.alone_s(row),
    }


def _arm_json(view: PlanView, arm: PlannedArm) -> Json:
    return {
        "name": arm.arm.name,
        "baseline": arm.arm.baseline,
        "cells": _cells(arm),
        "tune_trials": arm.tune_trials,
        "replicates": arm.replicates,
        "pending": arm.pending,
        "selected": None if arm.selected is None else dict(arm.selected),
        "signatures": sorted(_signatures(arm)),
        "cost": dict(arm.cell.cost),
        "changes": {change.value: view.difference.count(change, arm.arm.name) for change in Change},
    }


def _upstream_json(view: PlanView, row: PlannedUpstream) -> Json:
    return {
        "name": row.name,
        "seeds": row.upstream.seeds,
        "trials": len(row.keys),
        "pending": row.pending,
        "arms": [arm.name for arm in view.plan.arms if not row.keys.isdisjoint(arm.starts)],
        "signatures": sorted(_signatures(row)),
        "cost": dict(row.cell.cost),
        "changes": {change.value: view.difference.count(change, row.name) for change in Change},
    }


def _derived_line(view: PlanView, row: Ensemble) -> str:
    """What an arm that trains nothing is made of."""
    of, n = " and ".join(row.of), _replicates(view, row)
    left = n % row.members
    return (
        f"{row.name}: derived, 0 trials, from {n - left} of {of}{f' ({left} left over)' if left else ''}, in {n // row.members} "
        f"group{'' if n // row.members == 1 else 's'} of {row.trials}"
    )


def _derived_json(view: PlanView, row: Ensemble) -> Json:
    costs = [arm.cell.cost for name in row.of for arm in view.plan.arms if arm.arm.name == name]
    return {
        "name": row.name,
        "of": list(row.of),
        "members": row.members,
        "trials": 0,
        "replicates": _replicates(view, row) // row.members,
        "cost": {name: row.members * sum(cost[name] for cost in costs) for name in costs[0] if all(name in cost for cost in costs)},
    }


def _replicates(view: PlanView, row: Ensemble) -> int:
    """That each of its arms has."""
    return min((arm.replicates for arm in view.plan.arms if arm.arm.name in row.of), default=0)


def _cells(part: Part) -> int:
    """Configs of an arm: those it is tuned over; the selected one is among them."""
    return len({trial.cell.key for trial in (*part.trials, *part.held)})


def _signatures(part: Part) -> set[str]:
    return {trial.cell.signature for trial in (*part.trials, *part.held)} | {part.cell.signature}


def _packs_by_arm(view: PlanView) -> Mapping[str, str]:
    """Packs of an arm's programs; arms that share a program share its packs, marked by a plus behind the first."""
    packs = {row.signature: row.packs for row in view.work}
    shown: Counter[str] = Counter()
    cells: dict[str, str] = {}
    for part in view.plan.parts:
        mine = sorted(_signatures(part) & packs.keys())
        fresh = sum(packs[name] for name in mine if not shown[name])
        shared = any(shown[name] for name in mine)
        shown.update(mine)
        cells[part.name] = "" if not mine else f"{fresh or ''}{'+' if shared else ''}"
    return cells


def _magnitude(value: float | None) -> str:
    """A count with the unit that keeps it short.

    >>> _magnitude(666_000.0), _magnitude(102_100_000.0), _magnitude(None)
    ('666 k', '102.1 M', '')
    """
    if value is None:
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.1f} {unit}" if value >= 1e6 else f"{value / size:.0f} {unit}"
    return f"{value:.0f}"


def _short_time(seconds: float) -> str:
    """A time with the unit that keeps it short.

    >>> _short_time(0.00213), _short_time(3.14159), _short_time(95.0), _short_time(0.0)
    ('2.13 ms', '3.1 s', '95 s', '0 s')
    """
    if seconds < 1e-6:
        return "0 s"
    if seconds >= 1.0:
        return f"{seconds:.0f} s" if seconds >= 10.0 else f"{seconds:.1f} s"
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} µs"


def _gflops(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"

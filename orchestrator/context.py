"""What every command begins with: the study file read and checked whole, and its ledger."""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import socket
from collections.abc import Mapping, Sequence

from orchestrator.check import study_problems
from orchestrator.contract import Trainer
from orchestrator.designs import Sampled
from orchestrator.diff import Difference, Place, difference
from orchestrator.edits import content_of
from orchestrator.errors import StudyError
from orchestrator.estimate import OVERHEAD_S, Rungs, device_here, estimate, speeds, work_left
from orchestrator.keys import FlatConfig, content_key
from orchestrator.ledger import Ledger
from orchestrator.load import load_study
from orchestrator.outcomes import planned as planned
from orchestrator.plan import Planner
from orchestrator.plan_table import PlanView
from orchestrator.planned import Plan
from orchestrator.records import Phase, TrialState
from orchestrator.settings import applied, only_known
from orchestrator.storage import storage_of
from orchestrator.study import Study, Tune, roles


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A study that can be planned.

    Attributes:
        study: With its profile chosen.
        trainer: Which it names.
        planner: Of its trials.
        profile: Name of the profile; empty if the study has none.
        out: Folder that `--out` names.
        storage: Path or whole URL of the ledger, which studies may share. A URL may hold a password: it is not to be shown.
        file: Of the study.
        content: Digest of its bytes when it was read.
        digest: Of all that decides the study's plan; another one is an edit.
    """

    study: Study
    trainer: Trainer
    planner: Planner
    profile: str
    out: pathlib.Path
    storage: str = dataclasses.field(repr=False)
    file: pathlib.Path
    content: str
    digest: str

    @property
    def folder(self) -> pathlib.Path:
        """Logs, reports and W&B files of the study."""
        return self.out / self.study.name


def read_study(options: argparse.Namespace) -> Context:
    """The study that a command line names.

    Raises:
        StudyError: With every problem of the file, its configs and the settings at once. Nothing was written.
        LedgerError: A ledger cannot be kept where it is asked to be.
    """
    content = content_of(options.study)  # before it is run: what is edited meanwhile is an edit
    loaded = load_study(options.study)
    study, profile = _profiled(loaded.study, options.profile)
    only_known(study, loaded.trainer)
    study, base, problems = applied(study, loaded.trainer, options.set)
    problems = [*loaded.problems, *problems, *study_problems(study, loaded.trainer, base)]
    if problems:
        raise StudyError.of(dict.fromkeys(problems))
    planner = Planner(study, loaded.trainer, base)
    return Context(
        study=study,
        trainer=loaded.trainer,
        planner=planner,
        profile=profile,
        out=options.out,
        storage=storage_of(options.storage, os.environ, options.out),
        file=pathlib.Path(options.study),
        content=content,
        digest=_digest([content, *(held.address for held in planner.contents.values())], profile, options.set, base, loaded.trainer),
    )


def _digest(files: Sequence[str], profile: str, settings: Sequence[str], base: FlatConfig, trainer: Trainer) -> str:
    """Of all that decides the plan. The base says what a study takes from modules that its file imports."""
    return content_key(
        {"files": files, "profile": profile, "settings": settings, "base": dict(base), "trainer": [trainer.name, trainer.version]}
    )


def plan_view(context: Context, ledger: Ledger | None, workers: int, *, device: str = "") -> PlanView:
    """The plan, held against the ledger, with what it would cost.

    Args:
        context: The study.
        ledger: None where there is none yet.
        workers: That a run would have.
        device: Of this machine, as its trainer names it; empty where the ledger may know it.
    """
    plan, outcomes = planned(context.planner, ledger)
    changes = held_against(plan, context.study.name, ledger, {key: outcome.state for key, outcome in outcomes.items()})
    work = work_left(plan, changes, context.trainer, _rungs(context.study))
    cells = plan.programs
    probes = () if ledger is None else ledger.probes(cells)
    known, overhead_s = ("", None) if ledger is None else ledger.machine(socket.gethostname())
    device = device_here(probes, device or known)
    speed = speeds(list(cells.values()), probes, device)
    problems = dict.fromkeys(problem for cell in cells.values() if (problem := context.trainer.data_problem(cell.config)) is not None)
    return PlanView(
        study=context.study.name,
        profile=context.profile,
        roles=roles(context.study, [arm.arm for arm in plan.arms]),
        plan=plan,
        ensembles=context.study.ensembles,
        difference=changes,
        work=work,
        speeds=speed,
        device=device,
        estimate=estimate(work, speed, workers, overhead_s=OVERHEAD_S if overhead_s is None else overhead_s),
        workers=workers,
        data_problems=tuple(problems),
    )


def held_against(plan: Plan, study: str, ledger: Ledger | None, states: Mapping[str, TrialState]) -> Difference:
    """The plan against the study's former one."""
    members = () if ledger is None else ledger.members(study)
    places = [Place(key=row.key, arm=row.arm, phase=row.phase, index=row.index, state=row.state) for row in members if not row.orphaned]
    return difference(plan, places, states)


def _rungs(study: Study) -> dict[Phase, Rungs]:
    """Where trials are compared; of several sampled designs, the first one that says."""
    rules = {Phase.REPLICATE: next((row.stopping for row in study.arms if isinstance(row, Sampled) and row.stopping is not None), None)}
    rules[Phase.TUNE] = study.protocol.stopping if isinstance(study.protocol, Tune) else None
    return {phase: Rungs(first=rule.first, factor=rule.factor) for phase, rule in rules.items() if rule is not None}


def _profiled(study: Study, wanted: str) -> tuple[Study, str]:
    names = study.profiles
    if wanted and not names:
        raise StudyError(
            "the study has no profiles", found=f"--profile {wanted}", expected="no --profile", fix="drop it, or use Profiles(...)"
        )
    if not names:
        return study, ""
    profile = wanted or names[0]
    if profile not in names:
        raise StudyError(
            f"the study has no profile {profile!r}", found=profile, expected="one of " + ", ".join(names), fix="choose one of them"
        )
    return study.for_profile(profile), profile

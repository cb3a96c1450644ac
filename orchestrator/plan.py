"""The plan: every trial that a study needs, given what is already known, and what that leaves to do.

A pure function of the study and of the outcomes recorded so far. The driver calls it again as outcomes arrive: a tuned
arm's replicates exist once its tuning is finished, an adaptive sampler's next points once its last batch is, and what a
rung stops is known once the whole cohort has reported it, and which arms get more replicates once all have ended. What starts
from an upstream trial waits until that is trained.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Sequence

from orchestrator.cells import Cells
from orchestrator.config import Overlay, resolve
from orchestrator.contract import Trainer
from orchestrator.designs import Arm, Design, Sampled
from orchestrator.errors import StudyError
from orchestrator.expand import ADAPTIVE_BATCH, Cohort, Made, made_by, proposals, sampled_in
from orchestrator.files import contents_of
from orchestrator.keys import FlatConfig, trial_key
from orchestrator.lineage import Inherited, Upstreams, is_ready
from orchestrator.planned import Outcome, Outcomes, Plan, PlannedArm, PlannedCell, PlannedDecision, PlannedTrial
from orchestrator.records import Phase, TrialState
from orchestrator.replicates import TUNING_SEED, Adaptive, Replicates
from orchestrator.settling import settled
from orchestrator.sources import files_in, sources_of, upstreams_in
from orchestrator.standings import halved_arms, halved_trials
from orchestrator.study import Study, Tune, adaptive_in, nuisance_axes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Before:
    """An arm as it was planned last.

    Attributes:
        planned: The arm.
        drawn: Its tuning trials before any rule looked at them.
        keys: Of these, from whose outcomes the rest follows.
        outcomes: As they were.
        others: Of upstream trials and of what waits for them, from whose outcomes it follows what may be trained.
        of_others: Their outcomes.
    """

    planned: PlannedArm
    drawn: tuple[PlannedTrial, ...]
    keys: tuple[str, ...]
    outcomes: tuple[Outcome | None, ...]
    others: tuple[str, ...]
    of_others: tuple[Outcome | None, ...]

    def holds(self, outcomes: Outcomes) -> bool:
        """Nothing that it follows from has changed."""
        now = (tuple(map(outcomes.get, self.keys)), tuple(map(outcomes.get, self.others)))
        return now == (self.outcomes, self.of_others)


class Planner:
    """Plans one study. Cells are computed once, however often it is asked, and an arm again only when its trials' outcomes changed."""

    def __init__(self, study: Study, trainer: Trainer, base: FlatConfig) -> None:
        self.study, self.trainer, self.base = study, trainer, base
        self._axes = nuisance_axes(study)
        self._tuned = frozenset(key for key, _ in self._axes)
        self._designs = [row for design in _designs(study) for row in sampled_in(design)]
        self._made: tuple[Made, ...] | None = None  # of a study whose arms do not follow from results
        sources = sources_of(study, base)
        self.contents, problems = contents_of(files_in(sources))
        if problems:
            raise StudyError.of(problems)
        self._inherits = bool(upstreams_in(sources))
        self._cells = Cells(trainer, base, {file: content.address for file, content in self.contents.items()})
        self._upstreams = Upstreams(self._cells)
        self._starts_of: dict[str, tuple[str, ...]] = {}
        self._points: dict[str, FlatConfig] = {}
        self._numbers: dict[str, int] = {}
        self._before: dict[int | str, _Before] = {}
        self._rule = adaptive_in(study)
        self._grown: dict[int, tuple[PlannedArm, PlannedArm]] = {}  # arms with their first replicates, and with all

    def plan(self, outcomes: Outcomes, *, since: Plan | None = None, moved: Collection[str] = ()) -> Plan:
        """All that can be planned from these outcomes. An arm for which nothing changed is the same object as before.

        Args:
            outcomes: Of every trial that was planned, as far as they are known.
            since: An earlier plan of this study; None: look at every arm.
            moved: Names of the arms and upstreams to which something happened since then.
        """
        outcomes = Inherited(outcomes, self._cells, self._starts_of) if self._inherits else outcomes
        if since is not None and self._made is not None and not since.cohorts and self._rule is None:
            few = self._arms_after(since, self._made, outcomes, moved)
            return Plan(arms=few, upstream=self._upstreams.of(few, outcomes))
        made = self._made or made_by(self.study.arms, self.study.axes, self.base, functools.partial(self._score, outcomes))
        if not any(is_adaptive(row) for row in self._designs):
            self._made = made
            self._numbers = {row.arm.name: number for number, row in enumerate(made)}
        arms = [self._plan_arm(row.arm, number, outcomes) for number, row in enumerate(made)]
        tune = self.study.protocol if isinstance(self.study.protocol, Tune) else None
        cohorts = [] if tune is None or tune.rule is None else [(frozenset({arm.arm.name}), Phase.TUNE) for arm in arms]
        groups: dict[Cohort, list[int]] = {}
        for number, row in enumerate(made):
            if row.cohort is not None:
                groups.setdefault(row.cohort, []).append(number)
        of_arms: list[PlannedDecision] = []
        for cohort, numbers in groups.items():
            standing, decisions = halved_arms(cohort, [arms[number] for number in numbers], outcomes)
            of_arms += decisions
            for number, arm in zip(numbers, standing, strict=True):
                arms[number] = arm
            cohorts.append((frozenset(arm.arm.name for arm in standing), Phase.REPLICATE))
        if self._rule is None:
            upstream = self._upstreams.of(arms, outcomes)
            return Plan(arms=tuple(arms), cohorts=tuple(cohorts), of_arms=tuple(of_arms), upstream=upstream)
        rounds = settled(self._rule, arms, outcomes, self._key_of)
        grown = [self._with_more(arm, number, rounds.replicates_of(arm.name), outcomes) for number, arm in enumerate(arms)]
        return Plan(arms=tuple(grown), cohorts=tuple(cohorts), rounds=rounds, upstream=self._upstreams.of(grown, outcomes))

    def _with_more(self, arm: PlannedArm, number: int, replicates: int, outcomes: Outcomes) -> PlannedArm:
        """An arm with as many replicates as its comparison asks for."""
        assert self._rule is not None, "only then do arms get more"
        if replicates <= arm.replicates:
            return arm
        before = self._grown.get(number)
        if before is not None and before[0] is arm and before[1].replicates == replicates and not arm.starts:
            return before[1]
        first, place = self._rule.first_seed, number * (arm.tune_trials + self._rule.most) + arm.tune_trials
        more = [
            self._trial(
                arm.arm, self._cell_of(arm, first + index), arm.selected or {}, Phase.REPLICATE, index, first + index, place + index
            )
            for index in range(arm.replicates, replicates)
        ]
        grown = dataclasses.replace(
            arm,
            replicates=replicates,
            trials=(*arm.trials, *(trial for trial in more if is_ready(trial, outcomes))),
            held=(*arm.held, *(trial for trial in more if not is_ready(trial, outcomes))),
            starts=tuple(self._cells.chain((*arm.starts, *(start for trial in more for start in trial.cell.starts)))),
        )
        if before is None or before[1] != grown:
            self._grown[number] = arm, grown
        return self._grown[number][1]

    def _cell_of(self, arm: PlannedArm, seed: int) -> PlannedCell:
        """The cell of a replicate of an arm."""
        return self._cells.of(self._resolved(arm.arm), arm.selected or {}, seed) if arm.starts else arm.cell

    def _key_of(self, arm: PlannedArm, seed: int) -> str:
        return trial_key(self._cell_of(arm, seed).key, seed)

    def _arms_after(self, since: Plan, made: Sequence[Made], outcomes: Outcomes, moved: Collection[str]) -> tuple[PlannedArm, ...]:
        """The arms of a study in which none follows from another: only those that moved, or whose upstream did, are looked at."""
        arms = list(since.arms)
        starts = {trial.key for row in since.upstream if row.name in moved for trial in (*row.trials, *row.held)}
        further = (number for number, arm in enumerate(arms) if not starts.isdisjoint(arm.starts)) if starts else ()
        for number in sorted({*(self._numbers[name] for name in moved if name in self._numbers), *further}):
            arms[number] = self._plan_arm(made[number].arm, number, outcomes)
        return tuple(arms)

    @property
    def watches(self) -> frozenset[str]:
        """Metrics whose rungs decide something."""
        tune = self.study.protocol if isinstance(self.study.protocol, Tune) else None
        rules = [row.rule for row in self._designs] + ([] if tune is None else [tune.rule])
        return frozenset(metric for rule in rules if rule is not None for metric in rule.metrics)

    @property
    def selects(self) -> frozenset[str]:
        """Metrics whose final values decide something."""
        tune = self.study.protocol if isinstance(self.study.protocol, Tune) else None
        chosen = [] if tune is None else [tune.select]
        chosen += [] if self._rule is None else [self._rule.metric]
        return frozenset(row.select for row in self._designs if is_adaptive(row)) | frozenset(chosen)

    @property
    def starts(self) -> Collection[str]:
        """Keys of the upstream trials met so far, of which it matters whether they left their parameters."""
        return self._cells.starts.keys()

    def _plan_arm(self, arm: Arm, number: int, outcomes: Outcomes) -> PlannedArm:
        """The tuning trials of an arm and, once they are finished, its replicates."""
        # Arms that follow from results are made anew each time; the text tells 1 from True, which equal each other.
        name = number if self._made is not None else repr((number, arm))
        before = self._before.get(name)
        if before is None or not before.holds(outcomes):
            before = self._before[name] = self._planned(arm, number, outcomes, before)
        return before.planned

    def _planned(self, arm: Arm, number: int, outcomes: Outcomes, before: _Before | None) -> _Before:
        protocol, config = self.study.protocol, self._resolved(arm)
        tune = protocol if isinstance(protocol, Tune) else None
        then = tune.then if tune is not None else _replicates(protocol)
        budget = 0 if tune is None else tune.trials
        least, most = (then.first, then.most) if isinstance(then, Adaptive) else (then.n, then.n)
        first = number * (budget + most)
        drawn: Sequence[PlannedTrial] = ()
        if tune is not None:
            # A sampler that ignores results would draw the same again.
            fixed = before is not None and not is_adaptive(tune)
            drawn = before.drawn if before and fixed else self._drawn(tune, arm, config, first, outcomes, before)
        rule = None if tune is None else tune.rule
        tuning, decisions = (drawn, ()) if rule is None else halved_trials(rule, drawn, outcomes)
        selected: FlatConfig | None = {} if tune is None else self._selected(tune, tuning, outcomes)
        point = selected or {}
        cells = self._replicated(config, point, range(then.first_seed, then.first_seed + least))
        runs = [
            self._trial(arm, cell, point, Phase.REPLICATE, index, then.first_seed + index, first + budget + index)
            for index, cell in enumerate(cells if selected is not None else ())
        ]
        to_follow = cells if selected is None and self._tuned.isdisjoint(self._cells.artifact_keys) else ()
        trials = (*tuning, *runs)
        starts = self._cells.chain(start for cell in (*(trial.cell for trial in trials), *to_follow) for start in cell.starts)
        planned = PlannedArm(
            arm=arm,
            cell=cells[0],
            tune_trials=budget,
            replicates=least,
            selected=selected,
            trials=tuple(trial for trial in trials if is_ready(trial, outcomes)),
            decisions=tuple(decisions),
            held=tuple(trial for trial in trials if not is_ready(trial, outcomes)),
            starts=tuple(starts),
        )
        keys = tuple(trial.key for trial in drawn)
        others = (*starts, *(trial.key for trial in trials)) if starts else ()
        return _Before(
            planned=planned,
            drawn=tuple(drawn),
            keys=keys,
            outcomes=tuple(map(outcomes.get, keys)),
            others=others,
            of_others=tuple(map(outcomes.get, others)),
        )

    def _replicated(self, config: Overlay, point: FlatConfig, seeds: range) -> Sequence[PlannedCell]:
        """The cell of each replicate: one for all, unless what they start from differs with the seed."""
        if not self._cells.is_paired(config, point):
            return [self._cells.of(config, point, seeds.start)] * len(seeds)
        return [self._cells.of(config, point, seed) for seed in seeds]

    def _drawn(
        self, tune: Tune, arm: Arm, config: Overlay, first: int, outcomes: Outcomes, before: _Before | None
    ) -> Sequence[PlannedTrial]:
        def trial(point: FlatConfig, index: int = 0) -> PlannedTrial:
            return self._trial(arm, self._cells.of(config, point, TUNING_SEED), point, Phase.TUNE, index, TUNING_SEED, first + index)

        def score(point: FlatConfig) -> float | None:
            return _score_of(outcomes.get(trial(point).key), tune.select)

        scores = None if before is None else _scores(before, outcomes, tune.select)
        if before is not None and scores is not None and None in scores:
            return before.drawn  # its last batch is not over
        earlier = [(trial.point, score) for trial, score in zip(before.drawn, scores, strict=True)] if before and scores else []
        points = proposals(
            self._axes,
            tune.trials,
            sampler=tune.sampler,
            seed=tune.seed,
            direction=tune.direction,
            context=self._context(config),
            score=score,
            earlier=[(point, value) for point, value in earlier if value is not None],
        )
        # Samplers that ignore results propose the same points to every arm.
        points = [self._points.setdefault(repr(point), point) for point in points]
        drawn = () if before is None else before.drawn[: len(earlier)]
        return [*drawn, *(trial(points[index], index) for index in range(len(drawn), len(points)))]

    def _context(self, config: FlatConfig) -> FlatConfig:
        return {key: value for key, value in config.items() if key not in self._tuned}

    def _selected(self, tune: Tune, tuning: Sequence[PlannedTrial], outcomes: Outcomes) -> FlatConfig | None:
        """Best complete tuning trial, the first of equals; None while one is unfinished, or if none has the metric."""
        if len(tuning) < tune.trials:
            return None
        scores = [math.nan if trial.dropped else _score_of(outcomes.get(trial.key), tune.select) for trial in tuning]
        known = [(score, trial) for score, trial in zip(scores, tuning, strict=True) if score is not None and math.isfinite(score)]
        if len([score for score in scores if score is not None]) < tune.trials or not known:
            return None
        sign = 1.0 if tune.direction == "minimize" else -1.0
        return min(known, key=lambda pair: sign * pair[0])[1].point

    def _score(self, outcomes: Outcomes, arm: Arm, design: Sampled) -> float | None:
        planned = self._plan_arm(arm, 0, outcomes)
        if planned.selected is None:
            return None
        trials = (*planned.trials, *planned.held)
        scores = [_score_of(outcomes.get(trial.key), design.select) for trial in trials if trial.phase is Phase.REPLICATE]
        known = [score for score in scores if score is not None]
        return None if len(known) < len(scores) else sum(known) / len(known)

    def _resolved(self, arm: Arm) -> Overlay:
        config, problems = resolve(self.trainer.config_class, self.base, arm.overrides, where=f"arm {arm.name!r}")
        assert not problems, "a study is checked before it is planned"
        return Overlay(self.base, {key: config[key] for key in arm.overrides})

    def _trial(self, arm: Arm, cell: PlannedCell, point: FlatConfig, phase: Phase, index: int, seed: int, position: int) -> PlannedTrial:
        key = trial_key(cell.key, seed)
        if cell.starts:
            self._starts_of[key] = cell.starts
        return PlannedTrial(key=key, cell=cell, arm=arm.name, phase=phase, index=index, seed=seed, point=point, position=position)


def is_adaptive(draws: Sampled | Tune) -> bool:
    """What it draws follows from the results of what it drew before."""
    return draws.sampler == "tpe"


def _designs(study: Study) -> tuple[Design, ...]:
    return (*study.arms, *(() if study.axes is None else (study.axes,)))


def _replicates(protocol: object) -> Replicates | Adaptive:
    assert isinstance(protocol, (Replicates, Adaptive))
    return protocol


def _scores(before: _Before, outcomes: Outcomes, metric: str) -> list[float | None] | None:
    """Scores of the points that an adaptive sampler proposed; None where those that led it are others by now."""
    last = max(len(before.keys) - 1, 0) // ADAPTIVE_BATCH * ADAPTIVE_BATCH  # the first point of the last batch
    now = [outcomes.get(key) for key in before.keys]
    return [_score_of(outcome, metric) for outcome in now] if tuple(now[:last]) == before.outcomes[:last] else None


def _score_of(outcome: Outcome | None, metric: str) -> float | None:
    """Value of a metric of a finished trial, NaN if it ended without one, None if it is not finished.

    One that another study stopped is not finished: this one wants it to go on.
    """
    if outcome is None or not outcome.state.is_terminal or outcome.state is TrialState.STOPPED:
        return None
    return outcome.metrics.get(metric, math.nan)

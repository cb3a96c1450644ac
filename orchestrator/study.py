"""The study file's words: what is asked (arms, axes), how it is answered (protocol) and what is reported (objectives)."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

from orchestrator.axes import Distribution, IntUniform, LogUniform, Uniform, Values
from orchestrator.designs import DESIGNS, Arm, AxisPairs, Design, check_sampler, check_stopping
from orchestrator.ensembles import Ensemble
from orchestrator.errors import StudyError, refuse
from orchestrator.replicates import Adaptive, Replicates
from orchestrator.stopping.pareto import Halving

T = TypeVar("T")


class Role(enum.StrEnum):
    """What a config key is to a study."""

    SCIENTIFIC = "scientific"
    NUISANCE = "nuisance"
    FIXED = "fixed"


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Profiles(Generic[T]):
    """A value for each `--profile`; the first one named is the default."""

    options: tuple[tuple[str, T], ...]

    def __init__(self, **options: T) -> None:
        object.__setattr__(self, "options", tuple(options.items()))
        if not options:
            refuse("Profiles() names no profile", expected="at least one", fix="write Profiles(laptop=..., paper=...)")


def check_direction(where: str, direction: str) -> None:
    """Refuses a direction that is neither of the two words."""
    if direction not in ("minimize", "maximize"):
        refuse(f"{where} has no direction", found=repr(direction), expected="minimize or maximize", fix="use one of the two words")


@dataclasses.dataclass(frozen=True, slots=True)
class Objective:
    """A metric that the study reports, on test data, and which way is better."""

    metric: str
    direction: str = "minimize"

    def __post_init__(self) -> None:
        check_direction(f"objective {self.metric!r}", self.direction)


@dataclasses.dataclass(frozen=True, slots=True)
class Tune:
    """Tune, then replicate: the same number of tuning trials for every arm, selection on validation data, then replicates.

    Attributes:
        trials: Tuning trials of each arm, all on one seed that no replicate uses.
        select: Validation metric that chooses the cell.
        then: Replicates of the chosen cell, reported on test data: a number, or as many as it takes.
        direction: Which way `select` is better.
        sampler: Proposes the values of the nuisance axes; arms get the same proposals from `sobol` and `random`.
        seed: Fixes the proposals.
        stopping: Compares the tuning trials of an arm with each other at rungs, and stops those that lose. Every arm has the
            same number of trials and the same rungs, so all spend the same.
    """

    trials: int
    select: str
    then: Replicates | Adaptive
    direction: str = "minimize"
    sampler: str = "sobol"
    seed: int = 0
    stopping: Halving | None = None

    def __post_init__(self) -> None:
        check_sampler("Tune", self.sampler, self.trials)
        check_stopping("Tune", self.stopping, self.sampler)
        check_direction(f"selection by {self.select!r}", self.direction)
        if not self.select.startswith("val/"):
            refuse(
                "tuning must select on validation data",
                found=repr(self.select),
                expected="a metric of the validation split, such as val/nll",
                fix="choosing on test data makes the reported numbers optimistic: name a val/ metric",
            )

    @property
    def rule(self) -> Halving | None:
        """The stopping rule, by `select` where it names no metric."""
        return None if self.stopping is None else self.stopping.by(self.select, self.direction)


Protocol: TypeAlias = Tune | Replicates | Adaptive


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Study:
    """One question and how it is answered.

    Attributes:
        name: Letters, digits and `-._`; names the folder of the report.
        trainer: `module:Class` of the trainer.
        base: Config that arms change, as the trainer's config class; or one for each profile.
        arms: Arms and designs that make arms, in the order of tables.
        ensembles: Arms that are derived from these; tables show them below.
        axes: A design that every arm is crossed with (the scientific axes of a sweep).
        nuisance: Axes tuned for each arm with an equal budget.
        protocol: `Tune(...)`, or `Replicates(n)` or `Adaptive(...)` when nothing is tuned.
        objectives: What is reported; the first leads.
        question: Docstring of the study file; filled in by the loader.
    """

    name: str
    trainer: str
    base: Any
    arms: tuple[Design, ...]
    ensembles: tuple[Ensemble, ...]
    axes: Design | None
    nuisance: tuple[tuple[str, Distribution | Profiles[Distribution]], ...]
    protocol: Protocol | Profiles[Protocol]
    objectives: tuple[Objective, ...]
    question: str

    def __init__(
        self,
        *,
        name: str,
        trainer: str,
        base: Any,
        arms: Sequence[Design | Ensemble],
        protocol: Protocol | Profiles[Any],
        axes: Design | None = None,
        nuisance: Mapping[str, Distribution | Profiles[Any]] | None = None,
        objectives: Sequence[Objective] = (Objective("test/nll"),),
        question: str = "",
    ) -> None:
        trained = tuple(arm for arm in arms if not isinstance(arm, Ensemble))
        derived = tuple(arm for arm in arms if isinstance(arm, Ensemble))
        tuned = tuple((nuisance or {}).items())
        values = (name, trainer, base, trained, derived, axes, tuned, protocol, tuple(objectives), question)
        for field, value in zip(dataclasses.fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)
        self._check()

    def _check(self) -> None:
        if not re.fullmatch(r"[\w][\w.\-]{0,63}", self.name):
            refuse(
                "the study's name cannot name a folder",
                found=repr(self.name),
                expected="1 to 64 letters, digits, - . _",
                fix="rename the study",
            )
        if self.trainer.count(":") != 1:
            refuse(
                "the trainer is not named",
                found=repr(self.trainer),
                expected="module:Class, such as trainers.vision:Vision",
                fix="name the class",
            )
        designs = (*self.arms, *(() if self.axes is None else (self.axes,)))
        for design in designs:
            if not isinstance(design, DESIGNS):  # pyright: ignore[reportUnnecessaryIsInstance]
                refuse(
                    "something in arms is not a design",
                    found=repr(design),
                    expected="Arm, Grid, Sampled, Ensemble, …",
                    fix="wrap it in Arm(...)",
                )
        if not self.arms:
            refuse("the study has no arms", found="[]", expected="at least one Arm or design", fix="add an arm to arms=[...]")
        if not self.objectives:
            refuse("the study has no objectives", found="[]", expected="at least one Objective", fix='add Objective("test/nll")')

    @property
    def profiles(self) -> tuple[str, ...]:
        """Names of the profiles that some part of the study distinguishes, the default first; empty if none does."""
        parts = (self.base, self.protocol, *(axis for _, axis in self.nuisance))
        named = [name for part in parts if isinstance(part, Profiles) for name, _ in cast("Profiles[Any]", part).options]
        return tuple(dict.fromkeys(named))

    def for_profile(self, profile: str) -> Study:
        """The study with every `Profiles` value replaced by the one of this profile.

        Raises:
            StudyError: Some part has no value for the profile.
        """
        chosen = tuple((key, _chosen(f"nuisance axis {key!r}", axis, profile)) for key, axis in self.nuisance)
        base, protocol = _chosen("base", self.base, profile), _chosen("protocol", self.protocol, profile)
        return self._with(base=base, nuisance=chosen, protocol=protocol)

    def asking(self, question: str) -> Study:
        """The study with its question filled in."""
        return self._with(question=question)

    def following(self, protocol: Protocol | Profiles[Protocol]) -> Study:
        """The study with another protocol."""
        return self._with(protocol=protocol)

    def _with(self, **changes: Any) -> Study:
        """A copy that differs in some fields. Not checked again: what is wrong with it was said when it was made."""
        copy = object.__new__(Study)
        for field in dataclasses.fields(self):
            value = changes[field.name] if field.name in changes else getattr(self, field.name)
            object.__setattr__(copy, field.name, value)
        return copy


def roles(study: Study, arms: Sequence[Arm]) -> dict[str, Role]:
    """Role of every config key that the study moves; all others are fixed.

    Args:
        study: Whose profile was chosen.
        arms: All that its designs make.
    """
    found = {key: Role.SCIENTIFIC for arm in arms for key, _ in arm.changes}
    return found | {key: Role.NUISANCE for key, _ in study.nuisance}


def replication(protocol: Protocol) -> Replicates | Adaptive:
    """How many replicates the arms get, tuned or not."""
    return protocol.then if isinstance(protocol, Tune) else protocol


def adaptive_in(study: Study) -> Adaptive | None:
    """The rule by which a study adds replicates, with its metric; None where their number is fixed.

    Args:
        study: Whose profile was chosen.
    """
    then = replication(cast(Protocol, study.protocol))
    if not isinstance(then, Adaptive) or then.metric:
        return then if isinstance(then, Adaptive) else None
    first = next((objective.metric for objective in study.objectives if not objective.metric.startswith("cost/")), "")
    return dataclasses.replace(then, metric=first)


def nuisance_axes(study: Study) -> AxisPairs:
    """The nuisance axes of a study whose profile was chosen."""
    for key, axis in study.nuisance:
        if not isinstance(axis, (Values, Uniform, LogUniform, IntUniform)):
            raise StudyError(
                f"nuisance axis {key!r} is not an axis",
                found=repr(axis),
                expected="Values, Uniform, LogUniform or IntUniform",
                fix="use one of them",
            )
    return cast(AxisPairs, study.nuisance)


def _chosen(what: str, value: Any, profile: str) -> Any:
    if not isinstance(value, Profiles):
        return value
    options = dict(cast("Profiles[Any]", value).options)
    if profile not in options:
        raise StudyError(
            f"{what} has no value for profile {profile!r}",
            found=profile,
            expected="one of " + ", ".join(options),
            fix="choose one with --profile",
        )
    return options[profile]

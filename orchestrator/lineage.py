"""What follows for trials from what they start from: which may be trained, which wait, and which wait in vain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchestrator.cells import Cells
from orchestrator.planned import Outcome, Outcomes, PlannedArm, PlannedTrial, PlannedUpstream
from orchestrator.records import Phase, TrialState
from orchestrator.upstream import Upstream

_BLOCKED = Outcome(state=TrialState.FAILED, metrics={})
_ENDED = (TrialState.COMPLETE, TrialState.DIVERGED, TrialState.FAILED)
_BEYOND = (*_ENDED, TrialState.LEASED)  # what they start from is not asked for: they have ended, or are past their start


class Inherited(Mapping[str, Outcome]):
    """Outcomes, in which a trial whose upstream came to nothing has failed too, as long as the ledger knows nothing else of it."""

    def __init__(self, known: Outcomes, cells: Cells, starts_of: Mapping[str, tuple[str, ...]]) -> None:
        """Outcomes with what follows from them.

        Args:
            known: As the ledger has them.
            cells: Know the upstream trials.
            starts_of: Keys of the upstream trials that each planned trial starts from, of those that do.
        """
        self.known, self._cells, self._starts_of = known, cells, starts_of

    def __getitem__(self, key: str) -> Outcome:
        own = self.known.get(key)
        if own is not None and own.state in _BEYOND:
            return own
        if any(self._is_barren(start) for start in self._starts(key)):
            return _BLOCKED
        if own is None:
            raise KeyError(key)
        return own

    def __iter__(self) -> Iterator[str]:
        return iter(self.known)

    def __len__(self) -> int:
        return len(self.known)

    def _starts(self, key: str) -> tuple[str, ...]:
        return self._cells.starts[key].cell.starts if key in self._cells.starts else self._starts_of.get(key, ())

    def _is_barren(self, key: str) -> bool:
        """It ended without parameters, or never begins."""
        known = self.get(key)
        return known is not None and known.state in _ENDED and not known.is_start


def is_ready(trial: PlannedTrial, outcomes: Outcomes) -> bool:
    """It may be trained, or was."""
    if not trial.cell.starts:
        return True
    known = outcomes.known if isinstance(outcomes, Inherited) else outcomes
    own, starts = known.get(trial.key), (known.get(start) for start in trial.cell.starts)
    return (own is not None and own.state in _BEYOND) or all(start is not None and start.is_start for start in starts)


class Upstreams:
    """The upstream trials of a study with their places in its plan."""

    def __init__(self, cells: Cells) -> None:
        self._cells = cells
        self._trials: dict[tuple[str, int, int], PlannedTrial] = {}
        self._last: dict[Upstream, PlannedUpstream] = {}

    def of(self, arms: Sequence[PlannedArm], outcomes: Outcomes) -> tuple[PlannedUpstream, ...]:
        """Those that some arms take, each after what it starts from itself. One that stands as before is the same object."""
        groups: dict[Upstream, list[str]] = {}
        for key in dict.fromkeys(key for arm in arms for key in arm.starts):
            groups.setdefault(self._cells.starts[key].upstream, []).append(key)
        most = max(map(len, groups.values()), default=0)
        return tuple(self._planned(keys, (number - len(groups)) * most, outcomes) for number, keys in enumerate(groups.values()))

    def _planned(self, keys: Sequence[str], first: int, outcomes: Outcomes) -> PlannedUpstream:
        trials = [self._trial(key, index, first + index) for index, key in enumerate(keys)]
        ready = tuple(trial for trial in trials if is_ready(trial, outcomes))
        held = tuple(trial for trial in trials if not is_ready(trial, outcomes))
        made = PlannedUpstream(upstream=self._cells.starts[keys[0]].upstream, trials=ready, held=held)
        if self._last.get(made.upstream) != made:
            self._last[made.upstream] = made
        return self._last[made.upstream]

    def _trial(self, key: str, index: int, position: int) -> PlannedTrial:
        """Before every trial of an arm, so that positions are below zero."""
        start = self._cells.starts[key]
        fresh = PlannedTrial(
            key=key,
            cell=start.cell,
            arm=start.upstream.name,
            phase=Phase.UPSTREAM,
            index=index,
            seed=start.seed,
            point={},
            position=position,
        )
        return self._trials.setdefault((key, index, position), fresh)

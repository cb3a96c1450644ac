"""From addresses to the files that lanes start from: where they lie, and whether they hold what was left or kept there."""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterable, Iterator

from orchestrator.cells import TRIAL, artifact_keys
from orchestrator.contract import PARAMETERS, Trainer
from orchestrator.errors import DataError
from orchestrator.files import kept_at, sha256_of
from orchestrator.keys import FlatConfig
from orchestrator.ledger import ArtifactRow, Ledger
from orchestrator.records import Phase, StudyRecord, TrialRecord, TrialState

_DONE = (TrialState.COMPLETE, TrialState.DIVERGED, TrialState.STOPPED)
AGAIN = "`retry` trains the upstream trial again"


class Inputs:
    """Of the lanes of one worker. What an upstream trial left is verified once."""

    def __init__(self, ledger: Ledger, out: pathlib.Path, trainer: Trainer) -> None:
        self._ledger, self._out = ledger, out
        self._keys = artifact_keys(trainer)
        self._found: dict[str, pathlib.Path] = {}

    def of(self, config: FlatConfig) -> dict[str, pathlib.Path]:
        """The file that each artifact key of a config names, by that key.

        Raises:
            DataError: One is not there, or is damaged.
        """
        return {key: self._path(key, address) for key in self._keys if (address := str(config.get(key) or ""))}

    def _path(self, key: str, address: str) -> pathlib.Path:
        if address not in self._found:
            self._found[address] = self._left(address.removeprefix(TRIAL)) if address.startswith(TRIAL) else self._kept(key, address)
        return self._found[address]

    def _left(self, trial: str) -> pathlib.Path:
        rows = [row for row in self._ledger.artifacts([trial]) if row.name == PARAMETERS]
        wrong = _wrong(rows[0], self._out) if rows else "the ledger has none of it"
        if wrong:
            raise DataError(f"the parameters of upstream trial {trial} cannot be read: {wrong}; {AGAIN}")
        return self._out / rows[0].uri

    def _kept(self, key: str, address: str) -> pathlib.Path:
        path = kept_at(address, self._out)
        if path is None:
            raise DataError(
                f"the file that {key} names is not where launchers keep it",
                found=f"no {address} in {self._out / 'inputs'}",
                fix="launch the study again from where the file is, with this --out",
            )
        return path


def stranded(record: StudyRecord, ledger: Ledger, out: pathlib.Path) -> StudyRecord:
    """The record, in which complete upstream trials have failed whose parameters are gone while something is to start from them.

    Args:
        record: As the ledger gives it.
        ledger: Knows where parameters are.
        out: Folder that their paths are relative to.
    """
    done = Counter(trial.arm for trial in record.trials if trial.phase is not Phase.UPSTREAM and trial.state in _DONE)
    short = {arm.name for arm in record.arms if not arm.is_derived and done[arm.name] < arm.tune_trials + arm.replicates}
    needed = {row.name for row in record.upstreams if not short.isdisjoint(row.arms)}
    gone = _unreadable(ledger, out, (trial.key for trial in _complete(record) if trial.arm in needed), verify=False)
    if not gone:
        return record
    trials = (
        dataclasses.replace(trial, state=TrialState.FAILED, reason=gone[trial.key])
        if trial.phase is Phase.UPSTREAM and trial.key in gone
        else trial
        for trial in record.trials
    )
    return dataclasses.replace(record, trials=tuple(trials))


def waiting_in_vain(record: StudyRecord) -> Iterator[str]:
    """A line for each upstream of which a trial came to nothing: what waits for it, and what to do."""
    bad = [trial for trial in record.trials if trial.phase is Phase.UPSTREAM and trial.state in (TrialState.FAILED, TrialState.DIVERGED)]
    for row in record.upstreams:
        ended = [trial.state.value for trial in bad if trial.arm == row.name]
        if ended:
            what = f"{len(ended)} of {row.trials} upstream trials {row.name!r} {' or '.join(sorted(set(ended)))}"
            yield f"{what}: what starts from them in {', '.join(row.arms)} cannot be trained; `retry` trains failed ones again"


def lost_parameters(record: StudyRecord, ledger: Ledger, out: pathlib.Path) -> dict[str, str]:
    """Complete upstream trials whose parameters cannot be read, by key, and why. Every file is read to its end."""
    return _unreadable(ledger, out, (trial.key for trial in _complete(record)), verify=True)


def _complete(record: StudyRecord) -> Iterator[TrialRecord]:
    return (trial for trial in record.trials if trial.phase is Phase.UPSTREAM and trial.state is TrialState.COMPLETE)


def _unreadable(ledger: Ledger, out: pathlib.Path, keys: Iterable[str], *, verify: bool) -> dict[str, str]:
    """Why the parameters of some complete trials cannot be read, by key. To verify is to read, not only to look."""
    trials = tuple(keys)
    rows = {row.trial: row for row in ledger.artifacts(trials) if row.name == PARAMETERS} if trials else {}
    found = {key: _wrong(rows[key], out, verify=verify) if key in rows else "it left none" for key in trials}
    return {key: f"its parameters cannot be read: {wrong}; {AGAIN}" for key, wrong in found.items() if wrong}


def _wrong(row: ArtifactRow, out: pathlib.Path, *, verify: bool = True) -> str:
    """What is wrong with a file that a trial left; empty where nothing is."""
    path = out / row.uri
    try:
        if not path.is_file():
            return f"{path}: no such file"
        same = not verify or not row.sha256 or sha256_of(path) == row.sha256
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return "" if same else f"{path}: it does not hold what the trial left there"

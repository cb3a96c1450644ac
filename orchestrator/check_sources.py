"""Everything wrong with what a study's trials start from, found before anything is written or spent."""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from orchestrator.axes import edges
from orchestrator.cells import TRIAL, artifact_keys
from orchestrator.config import check_value, leaves, resolve
from orchestrator.contract import Keeper, Starter, Trainer
from orchestrator.designs import Arm
from orchestrator.errors import DataError, Problem
from orchestrator.files import ADDRESS, contents_of
from orchestrator.keys import KEY_LENGTH, FlatConfig, Value
from orchestrator.sources import files_in, sources_of, upstreams_in
from orchestrator.study import Study, nuisance_axes
from orchestrator.upstream import File, Source, Upstream


def source_problems(study: Study, trainer: Trainer, base: FlatConfig, arms: Sequence[Arm]) -> list[Problem]:
    """Every problem of what is started from.

    Args:
        study: Whose profile was chosen.
        trainer: Which it names.
        base: Its base config, flat.
        arms: All that its designs make.
    """
    sources = sources_of(study, base)
    upstreams = upstreams_in(sources)
    found = [*_misplaced(trainer, base), *_texts(study, trainer, base, arms, upstreams), *_names(study, arms, upstreams)]
    found += contents_of(files_in(sources))[1]
    if upstreams:
        found += _keeper(trainer, upstreams)
    for upstream in upstreams:
        found += _config(trainer, base, upstream)
    return found


def standing_in(trainer: Trainer, config: FlatConfig) -> FlatConfig:
    """A config with an address in the place of each source, for a trainer to look at before the real ones are known."""
    taken: dict[str, Value] = {
        key: ADDRESS + "0" * 64 if isinstance(value, File) else TRIAL + "0" * KEY_LENGTH
        for key in artifact_keys(trainer)
        if isinstance(value := config[key], Source)
    }
    return {**config, **taken} if taken else config


def misfits(trainer: Trainer, base: FlatConfig, config: FlatConfig) -> Iterator[Problem]:
    """What keeps a resolved config from what it starts from, where its trainer can tell.

    Args:
        trainer: Of the study.
        base: Its base config, flat.
        config: Whose values may be sources.
    """
    if not isinstance(trainer, Starter):
        return
    for key in artifact_keys(trainer):
        source = config[key]
        start = _origin(trainer, base, source) if isinstance(source, Source) else None
        if start is not None:
            for problem in _told(trainer, standing_in(trainer, config), start):
                yield dataclasses.replace(problem, what=f"it cannot start from {source!s}: {problem.what}")


def _origin(trainer: Trainer, base: FlatConfig, source: Source) -> FlatConfig | pathlib.Path | None:
    """What a source is of, for a trainer to look at; None where something else is wrong with it, which is told elsewhere."""
    if isinstance(source, Upstream):
        config, wrong = _resolved(trainer, base, source)
        return None if wrong else standing_in(trainer, config)
    path = pathlib.Path(str(source))
    return path if path.is_file() else None


def _told(trainer: Starter, config: FlatConfig, start: FlatConfig | pathlib.Path) -> Sequence[Problem]:
    try:
        return trainer.misfits(config, start)
    except DataError as error:
        return error.problems


def _misplaced(trainer: Trainer, base: FlatConfig) -> Iterator[Problem]:
    """Of arms and axes this is found where their values are checked."""
    known = leaves(trainer.config_class)
    for key, value in base.items():
        problem = check_value(known[key], value, where="the base config")[1] if isinstance(value, Source) else None
        if problem is not None:
            yield problem


def _texts(study: Study, trainer: Trainer, base: FlatConfig, arms: Sequence[Arm], upstreams: Sequence[Upstream]) -> Iterator[Problem]:
    """Plain texts in the place of sources: a path says nothing of what the file holds."""
    keys = artifact_keys(trainer)
    places: list[tuple[str, Mapping[str, Value]]] = [("the base config", base)]
    places += [(f"arm {arm.name!r}", arm.overrides) for arm in arms]
    places += [(f"upstream {upstream.name!r}", upstream.overrides) for upstream in upstreams]
    places += [(f"axis {key!r}", {key: value}) for key, axis in nuisance_axes(study) for value in edges(axis)]
    for where, values in places:
        for key in keys:
            text = values.get(key)
            if isinstance(text, str) and text and not isinstance(text, Source):
                yield Problem(
                    f"{where}: {key} is given as text",
                    found=repr(text),
                    expected='Upstream("name", {…}) for what other trials leave, or File("path") for a file',
                    fix=f'write "{key}": File({text!r}) in the study file',
                )


def _names(study: Study, arms: Sequence[Arm], upstreams: Sequence[Upstream]) -> Iterator[Problem]:
    names = Counter(upstream.name for upstream in upstreams)
    taken = {arm.name for arm in arms} | {row.name for row in study.ensembles}
    for name, count in names.items():
        if count > 1:
            expected = "one, named by all that start from it; or a name for each"
            yield Problem(f"{count} different upstreams are named {name!r}", found=name, expected=expected, fix="rename one of them")
        if name in taken:
            yield Problem(f"an upstream and an arm are named {name!r}", found=name, expected="a name for each", fix="rename one of them")


def _keeper(trainer: Trainer, upstreams: Sequence[Upstream]) -> Iterator[Problem]:
    key = trainer.keeps if isinstance(trainer, Keeper) else ""
    leaf = leaves(trainer.config_class).get(key)
    if leaf is None or leaf.type is not bool or not leaf.setting.outside:
        yield Problem(
            f"trials of {trainer.name} leave no parameters to start from",
            found=f"{upstreams[0]!r} and " + (f"keeps = {key!r}, which is no boolean outside of the program" if key else "no `keeps`"),
            expected="a trainer that names the config key with which a trial leaves its parameters",
            fix="start from a File, or teach the trainer: docs/trainers.md",
        )


def _config(trainer: Trainer, base: FlatConfig, upstream: Upstream) -> Iterator[Problem]:
    config, wrong = _resolved(trainer, base, upstream)
    yield from wrong
    for problem in () if wrong else (*trainer.problems(standing_in(trainer, config)), *misfits(trainer, base, config)):
        yield dataclasses.replace(problem, what=f"{_where(upstream)}: {problem.what}")


def _resolved(trainer: Trainer, base: FlatConfig, upstream: Upstream) -> tuple[FlatConfig, list[Problem]]:
    bare = {**base, **dict.fromkeys(artifact_keys(trainer), "")}
    return resolve(trainer.config_class, bare, upstream.overrides, where=_where(upstream))


def _where(upstream: Upstream) -> str:
    return f"upstream {upstream.name!r}"

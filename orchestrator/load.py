"""From a path to a study: the file is run once, and everything wrong with it is gathered before anybody stops."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import linecache
import pathlib
import sys
import traceback
import types
from collections.abc import Generator
from typing import cast

from orchestrator.contract import Trainer
from orchestrator.errors import OrchestratorError, Problem, StudyError, collected, did_you_mean
from orchestrator.study import Study


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A study, the trainer it names, and the problems met while its file ran."""

    study: Study
    trainer: Trainer
    problems: tuple[Problem, ...]


def load_study(path: str | pathlib.Path) -> Loaded:
    """The study that a file defines as `STUDY`, and its trainer.

    Raises:
        StudyError: There is no such file, it does not run, or it does not define one study; with every problem that
            was met on the way.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise StudyError(f"no study file at {path}", found=_nearby(file), expected="the path of a Python file", fix="check the path")
    with collected() as problems:
        module, failure = _run(file)
    if failure is not None:
        raise StudyError.of([*problems, failure])
    study = _only_study(module, file, problems)
    if study is None:
        raise StudyError.of(problems)
    study = study.asking((module.__doc__ or "").strip())
    try:
        trainer = load_trainer(study.trainer)
    except OrchestratorError as error:
        raise StudyError.of([*problems, *error.problems]) from error
    return Loaded(study=study, trainer=trainer, problems=tuple(problems))


def load_trainer(name: str) -> Trainer:
    """An instance of the trainer class named `module:Class`.

    Raises:
        StudyError: The module or the class does not exist, or the module does not import.
    """
    module_name, _, class_name = name.partition(":")
    with _importing_from(pathlib.Path.cwd()):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise StudyError(
                f"the trainer's module does not import: {module_name}",
                found=str(error),
                expected="module:Class, such as trainers.vision:Vision",
                fix="check the spelling, or install what it needs",
            ) from error
    if not hasattr(module, class_name):
        classes = [name for name, item in vars(module).items() if isinstance(item, type) and item.__module__ == module_name]
        raise StudyError(
            f"the trainer {name} does not exist",
            found=class_name,
            expected=did_you_mean(class_name, classes),
            fix="name a class of the module",
        )
    return cast(Trainer, getattr(module, class_name)())


def _run(file: pathlib.Path) -> tuple[types.ModuleType, Problem | None]:
    spec = importlib.util.spec_from_file_location(f"study_{file.stem}", file)
    if spec is None or spec.loader is None:
        return types.ModuleType(file.stem), Problem(
            f"{file} is not a Python file", found=file.suffix, expected=".py", fix="name the study file"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    with _importing_from(file.resolve().parent.parent):
        try:
            spec.loader.exec_module(module)
        except SyntaxError as error:
            place = f"{file}:{error.lineno}: {(error.text or '').strip()}"
            return module, Problem(
                f"the study file is not Python: {error.msg}", found=place, expected="valid Python", fix="correct that line"
            )
        except OrchestratorError as error:
            return module, error.problems[0]
        except Exception as error:  # a study file may raise anything: its author wants the line, not our traceback
            what = "the study file does not import" if isinstance(error, ImportError) else "the study file raises an error"
            return module, Problem(what, found=f"{type(error).__name__}: {error}", expected=_line(error, file), fix="correct that line")
    return module, None


def _line(error: Exception, file: pathlib.Path) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)]
    if not frames:
        return "a file that runs"
    number = frames[-1].lineno or 1
    return f"line {number} to run: {linecache.getline(str(file), number).strip()}"


def _only_study(module: types.ModuleType, file: pathlib.Path, problems: list[Problem]) -> Study | None:
    named = {name: item for name, item in vars(module).items() if isinstance(item, Study)}
    distinct = {id(item): name for name, item in named.items()}
    if len(distinct) > 1:
        found = ", ".join(sorted(distinct.values()))
        problems.append(
            Problem(
                f"{file} defines {len(distinct)} studies", found=found, expected="one, named STUDY", fix="move each to a file of its own"
            )
        )
    elif "STUDY" not in named:
        other = ", ".join(named) or "no Study(...) at the top level"
        problems.append(Problem(f"{file} defines no STUDY", found=other, expected="STUDY = Study(...)", fix="name the study STUDY"))
    return named["STUDY"] if "STUDY" in named else next(iter(named.values()), None)


def _nearby(file: pathlib.Path) -> str:
    names = [str(path) for path in sorted(file.parent.glob("*.py"))] if file.parent.is_dir() else []
    return "no such file" + (f"; {did_you_mean(str(file), names).replace('keys', 'files')}" if names else "")


@contextlib.contextmanager
def _importing_from(folder: pathlib.Path) -> Generator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))

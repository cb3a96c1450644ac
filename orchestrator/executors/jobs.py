"""A worker in XManager's terms, and back: its program is a packaged binary, its place an executor, both make a job."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attr
from xmanager import xm  # pyright: ignore[reportMissingTypeStubs]
from xmanager.xm.async_packager import AsyncPackager  # pyright: ignore[reportMissingTypeStubs]

from orchestrator.errors import LaunchError
from orchestrator.executors.base import WorkerSpec


class PlaceSpec(xm.ExecutorSpec):
    """What a program is packaged for: a place where it already is."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Place(xm.Executor):
    """Where one worker runs, in XManager's terms.

    Attributes:
        folder: Where the executor keeps what it must find again.
        log: File that the worker's output is appended to.
        requirements: Cores and accelerators.
    """

    folder: pathlib.Path
    log: pathlib.Path
    requirements: xm.JobRequirements

    @classmethod
    def Spec(cls) -> PlaceSpec:  # noqa: N802 (XManager's name)
        return PlaceSpec()


@attr.s(auto_attribs=True)
class Program(xm.Executable):
    """A packaged `xm.Binary`: its path, with the arguments and variables that every job of it has."""

    path: str
    args: xm.SequentialArgs
    env_vars: dict[str, str]


def job_of(experiment: xm.Experiment, spec: WorkerSpec) -> xm.Job:
    """A worker as an XManager job: its program packaged as a binary, its arguments and variables, and its place.

    Raises:
        LaunchError: The program does not exist.
    """
    packageable = xm.Packageable(executable_spec=xm.Binary(path=spec.argv[0]), executor_spec=Place.Spec())
    [program] = experiment.package([packageable])
    wanted = {xm.ResourceType.CPU: spec.cpus} | ({xm.ResourceType.LOCAL_GPU: spec.gpus} if spec.gpus else {})
    place = Place(folder=spec.folder, log=spec.log, requirements=xm.JobRequirements(wanted))
    return xm.Job(executable=program, executor=place, args=list(spec.argv[1:]), env_vars=dict(spec.env))


def spec_of(identity: str, group: xm.JobGroup) -> WorkerSpec:
    """The worker that a job group of one job describes.

    Raises:
        LaunchError: It describes something else.
    """
    rows = cast(Mapping[str, object], cast(Any, group).jobs)
    jobs = [job for job in rows.values() if isinstance(job, xm.Job)]
    if len(rows) != 1 or not jobs or not isinstance(jobs[0].executable, Program) or not isinstance(jobs[0].executor, Place):
        raise LaunchError("a work unit is one worker: one xm.Job of a packaged xm.Binary, with a Place", found=repr(rows))
    job, program, place = jobs[0], jobs[0].executable, jobs[0].executor
    arguments = cast(Any, xm).merge_args(program.args, job.args)
    wanted = cast(Mapping[object, float], place.requirements.task_requirements)
    return WorkerSpec(
        identity=identity,
        argv=(program.path, *arguments.to_list(str)),  # by default they are quoted for a shell, and there is none
        env=tuple((program.env_vars | job.env_vars).items()),
        log=place.log,
        folder=place.folder,
        cpus=int(wanted.get(xm.ResourceType.CPU, 1)),
        gpus=int(wanted.get(xm.ResourceType.LOCAL_GPU, 0)),
    )


def _package(packageables: Sequence[xm.Packageable]) -> list[xm.Executable]:
    return [_program(row) for row in packageables]


def _program(row: xm.Packageable) -> Program:
    spec = row.executable_spec
    if not isinstance(spec, xm.Binary) or not isinstance(row.executor_spec, PlaceSpec):
        raise LaunchError("a worker is packaged as an xm.Binary for a Place", found=repr(row))
    if not os.path.exists(spec.path):
        raise LaunchError(
            "the program of a worker does not exist",
            found=spec.path,
            expected="the path of a Python, such as sys.executable",
            fix="check the environment that the launcher runs in",
        )
    return Program(name=spec.name, path=spec.path, args=row.args, env_vars=row.env_vars)


packager = AsyncPackager(_package)

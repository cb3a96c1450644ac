"""Where a lane starts, other than afresh, and what it leaves for others to start from.

Parameters alone are taken over: the optimizer begins anew, so does the schedule, and every random draw is that of the lane's
own seed, as is each parameter that the file does not decide. A lane that starts from a file runs the program of one that does not.
"""

from __future__ import annotations

import pathlib
from typing import Any

import jax

from orchestrator.contract import PARAMETERS, DataError, Lane, build, write_whole
from trainers import initialize
from trainers.config import VisionConfig
from trainers.pack import Pack
from trainers.step import LaneState

START = "start.parameters"


def begun(lane: Lane, pack: Pack) -> LaneState | None:
    """The lane at step 0 with the parameters that it is to start from; None where it starts afresh.

    Raises:
        DataError: There is no such file, it is damaged, or any parameter of it does not fit; all are named.
    """
    if not lane.config[START]:
        return None
    config, path = build(VisionConfig, lane.config), _handed(lane)
    fresh = jax.device_get(pack.fresh(lane.config, lane.seed))
    params = initialize.parameters(path, config.model, config.data, fresh.params, fresh_head=config.start.fresh_head)
    return fresh._replace(params=params)


def keep_parameters(lane: Lane, params: Any) -> str:
    """Writes the lane's parameters into its folder, whole, and returns the name of the file: the artifact `PARAMETERS`.

    The name holds the hash of the content, for the reason that `predictions.save` gives.

    Raises:
        DataError: They cannot be written.
    """
    content = initialize.sealed_parameters(params, {"key": lane.key})
    name = f"{PARAMETERS}-{content.sha256[:12]}.safetensors"
    try:
        write_whole(lane.folder / name, *content.parts)
    except OSError as error:
        raise DataError(
            f"the parameters of trial {lane.key} cannot be written, and without them it is not complete",
            found=str(error),
            expected="a folder that can be written, with room in it",
            fix="make room, then `retry`",
        ) from error
    return name


def _handed(lane: Lane) -> pathlib.Path:
    if START not in lane.inputs:
        raise DataError(
            f"trial {lane.key} was not handed the file that it starts from",
            found=f"{START} = {lane.config[START]!r}, and no file for it",
            expected="the path of a file in `Lane.inputs`",
            fix="start it from a study, or alone with --set start.parameters=PATH",
        )
    return lane.inputs[START]

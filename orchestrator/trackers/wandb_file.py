"""Reads the file that W&B writes for a run: what is on disk, not what was meant to be there.

Needed because a full disk is silent: `log` and `finish` return as if all were well.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pathlib
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

_BLOCK = 32768  # bytes; the framing is that of LevelDB's log
_HEADER = 7  # bytes: of the file, and of each chunk of a record (CRC-32, length, kind)
_FULL, _FIRST, _LAST = 1, 2, 4


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """What a run's file holds.

    Attributes:
        run: `id`, `name`, `group`, `job_type`, `project` and `tags`.
        config: By key.
        history: A row for each step.
        summary: By key.
        exit_code: None if the run was cut off.
    """

    run: Mapping[str, Any]
    config: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]
    exit_code: int | None


def read_run(path: pathlib.Path) -> RunFile:
    """The contents of a `run-<id>.wandb`, up to where it was cut off if it was.

    Raises:
        ValueError: It is no such file.
    """
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    run: dict[str, Any] = {}
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    exit_code: int | None = None
    for raw in _records(path.read_bytes(), path):
        record = messages.Record.FromString(raw)
        match record.WhichOneof("record_type"):
            case "run":
                run = _run(record.run)
                config.update(_pairs(record.run.config.update))
            case "config":
                config.update(_pairs(record.config.update))
            case "history":
                history.append(_pairs(record.history.item))
            case "summary":
                summary.update(_pairs(record.summary.update))
            case "exit":
                exit_code = int(record.exit.exit_code)
            case _:
                pass
    return RunFile(run=run, config=config, history=tuple(history), summary=summary, exit_code=exit_code)


def _run(run: Any) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "name": run.display_name,
        "group": run.run_group,
        "job_type": run.job_type,
        "project": run.project,
        "tags": tuple(run.tags),
    }


def _pairs(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes, path: pathlib.Path) -> Iterator[bytes]:
    """Whole records, up to the first one that is torn or damaged."""
    if data[:4] != b":W&B":
        raise ValueError(f"{path} is not a W&B run file")
    position, record = _HEADER, b""
    while position < len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER or position + _HEADER > len(data):
            position += left
            continue
        crc, length, kind = struct.unpack_from("<IHB", data, position)
        if (crc, length, kind) == (0, 0, 0):  # padding to the end of the block
            position += left
            continue
        body = data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if len(body) < length or zlib.crc32(bytes([kind]) + body) != crc:
            return
        record = body if kind in (_FULL, _FIRST) else record + body
        if kind in (_FULL, _LAST):
            yield record

"""What a file of weights would start of a model: `python -m trainers.initialize FILE --size S/32 --set data.image_size=224`."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from orchestrator.contract import OrchestratorError, build, flatten
from trainers import presets, solo
from trainers.config import VisionConfig
from trainers.initialize import Fit, How, Row, fit, read, shapes
from trainers.vision import Vision


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Ends the process: 0 the file fits, 1 something in it does not, 2 it or the config cannot be read."""
    options = _parser().parse_args(arguments)
    try:
        config = _config(options)
        fitted = fit(read(options.file), config.model, config.data, shapes(config.model, config.data), fresh_head=options.fresh_head)
    except OrchestratorError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if options.json:
        print(json.dumps(_document(fitted), indent=2, ensure_ascii=False))
    else:
        _print_table(options.file, fitted)
        for problem in fitted.problems:
            print(f"\n{problem}", file=sys.stderr)
    sys.exit(1 if fitted.problems else 0)


def _config(options: argparse.Namespace) -> VisionConfig:
    base = {"paper": presets.paper(), "laptop": presets.laptop(), "defaults": VisionConfig()}[options.preset]
    flat = {**flatten(base), **(presets.size_overrides(options.size) if options.size else {})}
    return build(VisionConfig, solo.read_config(Vision(), options.config, options.set, base=flat))


def _document(fitted: Fit) -> dict[str, object]:
    rows = [
        {"parameter": row.name, "shape": row.shape, "from": row.origins, "found": row.found, "how": row.how.value} for row in fitted.rows
    ]
    return {"parameters": rows, "problems": [str(problem) for problem in fitted.problems]}


def _print_table(file: str, fitted: Fit) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=file, title_justify="left")
    for name in ("parameter", "shape", "from", "found"):
        table.add_column(name, overflow="fold")
    table.add_column("how", no_wrap=True)
    for row in fitted.rows:
        table.add_row(row.name or "—", _sizes(row.shape), _short(row.origins), _sizes(row.found), row.how.value)
    # As wide as it needs to be where nobody looks: a name that is cut in two cannot be searched for.
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)
    console.print(_summary(fitted.rows), highlight=False)


def _summary(rows: Sequence[Row]) -> str:
    counts = {how: sum(row.how is how for row in rows) for how in How}
    return ", ".join(f"{count} {how.value}" for how, count in counts.items() if count)


def _sizes(shape: Sequence[int]) -> str:
    return " × ".join(str(size) for size in shape)


def _short(origins: Sequence[str]) -> str:
    """Names that differ in one layer as one: `…/{query,key,value}/kernel`.

    >>> _short(["a/query/bias", "a/key/bias"])
    'a/{query,key}/bias'
    """
    if len(origins) < 2:
        return ", ".join(origins)
    parts = [name.split("/") for name in origins]
    return "/".join(each[0] if len(set(each)) == 1 else "{" + ",".join(each) + "}" for each in zip(*parts, strict=True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainers.initialize", description="What a file of weights would start of a model.")
    parser.add_argument("file", metavar="FILE", help="a .npz, the PREFIX of a released model, a .safetensors, or the folder of a trial")
    parser.add_argument("--config", type=pathlib.Path, metavar="CONFIG", help="JSON object of dotted keys and values")
    parser.add_argument("--preset", choices=("paper", "laptop", "defaults"), default="paper", help="what CONFIG changes (default paper)")
    parser.add_argument("--size", choices=presets.SIZES, help="a published size instead of the preset's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key; may be repeated")
    parser.add_argument("--fresh-head", action="store_true", help="start with a new head though the file has one of the right shape")
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser


if __name__ == "__main__":
    main()

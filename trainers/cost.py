"""What a config costs, before anything is trained: `python -m trainers.cost CONFIG.json`, or `--paper` against published figures.

Counted from shapes alone, without JAX; `trainers.flops.cost` says what is counted, and what of that was inferred.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NoReturn

from orchestrator.contract import FlatConfig, OrchestratorError, flatten
from trainers import presets, solo
from trainers.config import DataConfig, VisionConfig
from trainers.flops import parameters
from trainers.vision import Vision

# Training GFLOPs per image of B/32 on ImageNet at 384 px. Source: Allingham et al. (TMLR 2022), the table of efficient ensembles.
PUBLISHED_GFLOPS = {
    "ViT": 78.0,
    "BE ViT": 97.1,
    "V-MoE": 94.9,
    "MC Dropout V-MoE": 97.2,
    "MIMO V-MoE (M = 2)": 96.3,
    "MIMO V-MoE (M = 4)": 99.0,
    "E³": 105.9,
}
GFLOPS_MAY_DIFFER = 0.005  # of the published figure

# Millions, at 224 px with 18,291 classes and a tanh layer. Source: Riquelme et al. (2021), the table of variants.
PUBLISHED_MILLIONS = {
    ("S/32", "none", 0): 36.5,
    ("B/32", "none", 0): 102.1,
    ("L/32", "none", 0): 325.3,
    ("H/14", "none", 0): 655.8,
    ("S/32", "every", 2): 296.9,
    ("B/32", "every", 2): 980.6,
    ("L/32", "last", 2): 845.8,
    ("H/14", "last", 5): 2688.6,
}
MILLIONS_MAY_DIFFER = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One published figure beside ours.

    Attributes:
        name: Of the model.
        published: As printed.
        counted: By us.
        is_close: They differ by no more than is allowed.
    """

    name: str
    published: float
    counted: float
    is_close: bool

    @property
    def difference(self) -> float:
        """Of ours from the published figure, relative."""
        return self.counted / self.published - 1


def paper_gflops() -> list[Row]:
    """The seven published costs of B/32, in the paper's order: one definition for all, and no number fitted to a row."""
    rows = []
    for name, published in PUBLISHED_GFLOPS.items():
        flat = {**flatten(presets.paper()), **presets.EFFICIENT_ENSEMBLES[name]}
        counted = Vision().cost(flat)["cost/train_gflops"]
        is_close = abs(counted - published) <= GFLOPS_MAY_DIFFER * published
        rows.append(Row(name=name, published=published, counted=counted, is_close=is_close))
    return rows


def paper_parameters() -> list[Row]:
    """The published parameter counts of sizes, dense and sparse, in millions."""
    rows = []
    data = DataConfig(image_size=224, classes=18291, channels=3)
    for (name, placement, n), published in PUBLISHED_MILLIONS.items():
        width = presets.size(name).hidden
        model = presets.size(name, representation=width, moe_placement=placement, moe_layers=n or 1)
        counted = parameters(model, data) / 1e6
        is_close = abs(counted - published) <= MILLIONS_MAY_DIFFER
        title = f"ViT-{name}" if placement == "none" else f"V-MoE-{name}, {placement}-{n}"
        rows.append(Row(name=title, published=published, counted=counted, is_close=is_close))
    return rows


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Ends the process: 0 done, 1 a published figure is missed, 2 the user's error."""
    options = _parser().parse_args(arguments)
    try:
        sys.exit(_show_paper(as_json=options.json) if options.paper else _show_config(options))
    except OrchestratorError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _show_paper(*, as_json: bool) -> int:
    groups = {"train_gflops": paper_gflops(), "parameters_millions": paper_parameters()}
    if as_json:
        document = {key: [dataclasses.asdict(row) | {"difference": row.difference} for row in rows] for key, rows in groups.items()}
        print(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print_table("Training GFLOPs per image, B/32 at 384 px", groups["train_gflops"], digits=2)
        _print_table("Parameters, millions", groups["parameters_millions"], digits=2)
    return 0 if all(row.is_close for rows in groups.values() for row in rows) else 1


def _show_config(options: argparse.Namespace) -> int:
    figures = Vision().cost(_config(options))
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        _print_figures(figures)
    return 0


def _config(options: argparse.Namespace) -> FlatConfig:
    if options.config is not None and options.config.suffix == ".py":
        raise OrchestratorError(
            "a study has many configs",
            found=str(options.config),
            expected="a JSON object of dotted keys and values",
            fix=f"python launch.py {options.config} plan shows the cost of each arm",
        )
    base: dict[str, VisionConfig] = {"paper": presets.paper(), "laptop": presets.laptop(), "defaults": VisionConfig()}
    flat = {**flatten(base[options.preset]), **(presets.size_overrides(options.size) if options.size else {})}
    return solo.read_config(Vision(), options.config, options.set, base=flat)


def _print_table(title: str, rows: Sequence[Row], *, digits: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("model")
    for name in ("published", "counted", "difference"):
        table.add_column(name, justify="right")
    for row in rows:
        note = "" if row.is_close else "  off"
        table.add_row(row.name, f"{row.published:.1f}", f"{row.counted:.{digits}f}", f"{row.difference:+.2%}{note}")
    Console().print(table)


def _print_figures(figures: Mapping[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for name, text in _worded(figures):
        table.add_row(name, text)
    Console().print(table)


def _worded(figures: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    yield "parameters", f"{figures['cost/parameters']:,.0f}"
    yield "training GFLOPs per image", f"{figures['cost/train_gflops']:.4g}"
    yield "inference GFLOPs per image", f"{figures['cost/inference_gflops']:.4g}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainers.cost", description="Parameters and GFLOPs of a config, from its shapes.")
    parser.add_argument("config", nargs="?", type=pathlib.Path, metavar="CONFIG", help="JSON object of dotted keys and values")
    parser.add_argument("--paper", action="store_true", help="the published figures against ours; exits 1 if one is missed")
    parser.add_argument("--preset", choices=("paper", "laptop", "defaults"), default="paper", help="what CONFIG changes (default paper)")
    parser.add_argument("--size", choices=presets.SIZES, help="a published size instead of the preset's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one key; may be repeated")
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser


if __name__ == "__main__":
    main()

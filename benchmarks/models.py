"""How fast a forward pass and a training step are, beside the authors' own model where a checkout of it is given.

    python benchmarks/models.py [--authors VMOE VISION_TRANSFORMER] [--json] [--save] [--only "E³" …] [--sizes digits …]

Both have the same parameters, and before anything is timed their outputs and gradients are held against each other. One
process computes with one thread; contenders take turns in it, and the median over the rounds counts. On a CPU the
headline is CPU time, which what else runs disturbs least. On an accelerator it is wall time.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

if __name__ == "__main__":
    ROOT = pathlib.Path(__file__).resolve().parent.parent
    sys.path.insert(0, str(ROOT))  # run as a file, from any folder
    from benchmarks import machine

    if os.environ.get("NPROC") != "1":  # before JAX starts, and malloc too
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "NPROC": "1", **machine.MALLOC})

import jax
import jax.numpy as jnp
import optax

from benchmarks import machine
from benchmarks.contenders import authors, cases, ours
from benchmarks.contenders.rounds import Timed, timed
from trainers import flops
from trainers.config import VisionConfig

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
CLOSE = 1e-4  # relative distance of gradients, and of logits, in float32
CLOSE_HALF = 5e-2  # where something is rounded to bfloat16

# Dense peak of a device without sparsity, in TFLOP/s, by a part of its name and the type of the products. Source: data sheets.
PEAKS = {("H200", "bfloat16"): 989.0, ("H100", "bfloat16"): 989.0, ("A100", "bfloat16"): 312.0}


def compared(found: Any, expected: Any) -> float:
    """Distance of two trees of arrays over the norm of the second."""
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, found, expected)) / optax.tree.norm(expected))


def agreement(config: VisionConfig, mine: cases.Contender, theirs: cases.Contender) -> dict[str, float]:
    """How far apart logits, loss and gradient are, from the same parameters.

    Raises:
        ValueError: Further than rounding explains: then a ratio of times would mean nothing.
    """
    images, labels = cases.batch(config)
    loss, gradient = mine.gradient(mine.params, images, labels)
    their_loss, their_gradient = theirs.gradient(theirs.params, images, labels)
    apart = {
        "logits": compared(mine.forward(mine.params, images), theirs.forward(theirs.params, images)),
        "loss": compared(loss, their_loss),
        "gradient": compared(gradient, authors.to_ours(their_gradient, config)),
    }
    limit = CLOSE_HALF if "released" in theirs.name or config.model.dtype == "bfloat16" else CLOSE
    if max(apart.values()) > limit:
        raise ValueError(f"{theirs.name} computes something else: {apart}, at most {limit} was expected")
    return apart


def calls(contender: cases.Contender, config: VisionConfig) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """One forward pass, and one training step after the last."""
    images, labels = cases.batch(config)
    state = contender.start

    def step() -> Any:
        nonlocal state
        state = contender.step(state, images, labels)
        return state

    return lambda: contender.forward(contender.params, images), step


def measured(config: VisionConfig, *, with_authors: bool, rounds: int) -> dict[str, Any]:
    """A case: how well contenders agree, and what they take."""
    theirs = authors.contenders(config) if with_authors else []
    mine = ours.contender(config, authors.to_ours(theirs[0].params, config) if theirs else None)
    apart = {one.name: agreement(config, mine, one) for one in theirs}
    both = {one.name: calls(one, config) for one in (mine, *theirs)}
    passes: dict[str, Timed] = {}
    for place, name in enumerate(("forward", "step")):
        passes[name] = timed({contender: pair[place] for contender, pair in both.items()}, rounds)
    return {"apart": apart, **{name: dataclasses.asdict(found) | rates(found, config, name) for name, found in passes.items()}}


def rates(found: Timed, config: VisionConfig, name: str) -> dict[str, Any]:
    """Images a second of each contender by the wall, and the share of the device's peak, where that is known."""
    n, cost = config.train.batch_size, flops.cost(config)["cost/train_gflops" if name == "step" else "cost/inference_gflops"]
    images_s = {who: 1e3 * n / spread.median for who, spread in found.wall_ms.items()}
    kind = jax.devices()[0].device_kind
    peak = next((peak for (device, dtype), peak in PEAKS.items() if device in kind and dtype == config.model.dtype), None)
    mfu = {} if peak is None else {who: rate * cost / 1e3 / peak for who, rate in images_s.items()}
    return {"images_s": images_s, "gflops_an_image": cost, "mfu": mfu}


def documents(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Everything that is known so far, as one document after each case."""
    load_start, rows = machine.load(), []
    for size, method in itertools.product(options.sizes, options.only):
        config = cases.config(size, method, dtype=options.dtype)
        rows.append({"size": size, "method": method, **measured(config, with_authors=bool(options.authors), rounds=options.rounds)})
        print("\n".join(lines(rows[-1])), file=sys.stderr, flush=True)
        yield {
            "machine": {**machine.describe(), "device": jax.devices()[0].device_kind, "threads": os.environ["NPROC"]},
            "dtype": options.dtype,
            "rounds": options.rounds,
            "rows": rows,
            "load_average": {"start": load_start, "end": machine.load()},
        }


def lines(row: dict[str, Any]) -> list[str]:
    """A case as lines of the table."""
    clock = "cpu" if jax.default_backend() == "cpu" else "wall"
    said = []
    for name in ("forward", "step"):
        found = row[name]
        for who, ms in found[f"{clock}_ms"].items():
            ratio = found[f"{clock}_ratio"].get(who)
            times = "" if ratio is None else f"{ratio['median']:6.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
            mfu = f"{100 * found['mfu'][who]:5.1f} %" if who in found["mfu"] else ""
            what = f"{row['size']:7} {row['method']:17} {name:8} {who:28}"
            said.append(f"{what} {ms['median']:8.2f} {found['images_s'][who]:8.0f}  {times} {mfu}".rstrip())
    return said


def text(found: dict[str, Any]) -> str:
    """The table."""
    where = found["machine"]
    head = [
        f"{where['processor']} · {where['device']} · jax {where['versions']['jax']} · {found['dtype']} · {where['date']}",
        f"load average {found['load_average']['start']} at the start, {found['load_average']['end']} at the end",
        "",
        f"{'size':7} {'method':17} {'pass':8} {'whose':28} {'ms':>8} {'images/s':>8}  × ours (middle half)",
    ]
    return "\n".join([*head, *(line for row in found["rows"] for line in lines(row))])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=pathlib.Path, nargs="+", default=[], metavar="PATH", help="checkouts of their code")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--save", action="store_true", help="also write it to benchmarks/results/models-<device>.json")
    parser.add_argument("--sizes", nargs="+", choices=list(cases.SIZES), default=list(cases.SIZES)[:2], help="default: the two small ones")
    parser.add_argument("--only", nargs="+", choices=list(cases.METHODS), default=list(cases.METHODS), help="default: all methods")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of activations (default float32)")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="turns of each (default 9)")
    options = parser.parse_args(arguments)
    if options.authors:
        authors.find(options.authors)
    found: dict[str, Any] = {}
    for found in documents(options):
        if options.save:
            path = RESULTS / f"models-{jax.default_backend()}.json"
            path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(found, indent=1, ensure_ascii=False) if options.json else text(found))


if __name__ == "__main__":
    main()

"""The ways to do what a sparse layer does, beside each other: to move tokens to buffers, and to apply experts to them.

    python benchmarks/dispatch.py [--json]

Each shape is a layer in training at C = 1.5, and in evaluation at C = 8. `trainers/models/dispatch.py` and `experts.py` take
the way that is the fastest here for their platform; a way that changed from run to run would change the bits of a trial.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder
    os.environ.setdefault("NPROC", "1")  # read when JAX starts

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.contenders.rounds import timed
from trainers.geometry import slots
from trainers.models import experts
from trainers.models.dispatch import by_index, by_product
from trainers.models.experts import Weights, buffer_rows

# Tokens of a batch, K, E, width, MLP.
SHAPES = ((40, 2, 4, 16, 32), (160, 2, 8, 32, 64), (2176, 1, 8, 64, 256), (2080, 2, 8, 128, 512), (2080, 2, 32, 128, 512))


def layer(tokens: int, k: int, n_experts: int, width: int, hidden: int, factor: float) -> dict[str, Callable[[], Any]]:
    """One call of each way of a layer whose tokens are spread evenly, compiled."""
    size = buffer_rows(slots(tokens, k=k, experts=n_experts, factor=factor, at_most=tokens))
    rng = np.random.default_rng(0)
    filled = np.bincount(np.arange(tokens * k) % n_experts, minlength=n_experts).astype(np.int32)
    source = np.full((n_experts, size), tokens, np.int32)
    for expert, count in enumerate(filled):
        source[expert, :count] = rng.permutation(tokens)[:count]
    rows = jnp.asarray(rng.normal(size=(tokens, width)), jnp.float32)
    shapes = (n_experts, width, hidden), (n_experts, hidden), (n_experts, hidden, width), (n_experts, width)
    weights = Weights(*(jnp.asarray(rng.normal(size=shape) / 8, jnp.float32) for shape in shapes))
    buffers = by_index(rows, jnp.asarray(source))

    def step(forward: Callable[..., Any], backward: Callable[..., Any]) -> Callable[[], Any]:
        def both(rows: jax.Array, weights: Weights, filled: jax.Array) -> Any:
            said, hidden = forward(rows, weights, None, filled)
            return said, backward(said, rows, hidden, weights, None, filled)

        call = jax.jit(both)
        return lambda: call(buffers, weights, filled)

    moves = {
        f"move {name}": _bound(way, rows, jnp.asarray(source.reshape(-1))) for name, way in (("index", by_index), ("product", by_product))
    }
    return {
        **moves,
        "say tiles": _bound(experts.say_by_tiles, buffers, weights, None, filled),
        "say at once": _bound(experts.say_at_once, buffers, weights, None, filled),
        "learn tiles": step(experts.forward_by_tiles, experts.backward_by_tiles),
        "learn at once": step(experts.forward_at_once, experts.backward_at_once),
    }


def _bound(way: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    call = jax.jit(way)
    return lambda: call(*arguments)


def document(rounds: int) -> dict[str, Any]:
    """Milliseconds of each way, at each shape and capacity."""
    rows = []
    clock = "cpu_ms" if jax.default_backend() == "cpu" else "wall_ms"
    for shape in SHAPES:
        for factor in (1.5, 8.0):
            found = getattr(timed(layer(*shape, factor), rounds), clock)
            named = dict(zip(("tokens", "k", "experts", "width", "mlp"), shape, strict=True))
            rows.append({**named, "capacity": factor, "ms": {name: spread.median for name, spread in found.items()}})
    return {"machine": {**machine.describe(), "device": jax.devices()[0].device_kind}, "rows": rows, "load_average": machine.load()}


def text(found: dict[str, Any]) -> str:
    """The table."""
    ways = list(found["rows"][0]["ms"])
    lines = ["tokens  K   E    D    F    C  " + "  ".join(f"{way:>13}" for way in ways) + "   ms"]
    for row in found["rows"]:
        head = f"{row['tokens']:6} {row['k']:2} {row['experts']:3} {row['width']:4} {row['mlp']:4} {row['capacity']:4.1f}  "
        lines.append(head + "  ".join(f"{row['ms'][way]:13.3f}" for way in ways))
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each way (default 5)")
    options = parser.parse_args()
    found = document(options.rounds)
    print(json.dumps(found, indent=1, ensure_ascii=False) if options.json else text(found))


if __name__ == "__main__":
    main()

"""Where the time of one training step goes, on one core: what the arithmetic needs, and what each part takes.

    python benchmarks/step_floor.py [--json] [--steps 100]

Every way to run trials pays for the same steps, so this is what bounds the ratios of `packing.py` at many steps. Times are
CPU time of this process, which computes with one thread: what else runs on the machine disturbs them little. The least of
several repeats counts. Shares of parts come from XLA's own trace of its kernels.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import glob
import json
import os
import pathlib
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

os.environ["NPROC"] = "1"  # read when JAX starts
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))  # run as a file, from any folder

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine
from benchmarks.rivals import workload
from orchestrator.contract import flatten
from trainers import flops
from trainers.augment import to_model_range
from trainers.config import VisionConfig
from trainers.data import load
from trainers.losses import training_loss
from trainers.step import Program, TrainData, root_key, traced_numbers

REPEATS = 7
LARGE = 2048  # rows and columns of a matrix whose product runs at the core's best rate
COPIED = 2**26  # floats, too many for a cache

# What a kernel is for, by the first pattern that its name in the program fits; scopes are Flax's.
PARTS = (
    ("layer norms", r"/norm"),
    ("router: scores, noise, balancing losses", r"/router/"),
    ("experts: products", r"/experts/.*(dot_general|transpose$)"),
    ("experts: biases, GELU, dropout", r"/experts/"),
    ("tokens to buffers and back", r"/moe/"),
    ("MLPs: products", r"/mlp/.*(dot_general|transpose$)"),
    ("MLPs: biases, GELU, dropout", r"/mlp/"),
    ("attention: products", r"/attention/.*(dot_general|transpose$)"),
    ("attention: softmax, biases, layout", r"/attention/"),
    ("embedding, head, residual sums", r"Vit"),
    ("optimizer, augmentation, loss, batch", r""),
)


@functools.cache
def inputs(config: VisionConfig) -> tuple[Any, Any, TrainData]:
    """State, traced numbers and data of a config."""
    numbers = jax.device_put(traced_numbers(flatten(config)))
    train = load(config.data)["train"]
    state = jax.jit(Program(config).init)(root_key(0), numbers)
    return state, numbers, jax.device_put(TrainData(*train.gather(np.arange(train.shape[0]))))


@functools.cache
def chunk(config: VisionConfig) -> Any:
    """The compiled program that a worker runs: some steps of one lane."""
    state, numbers, data = inputs(config)
    return jax.jit(Program(config).chunk).lower(state, numbers, np.int32(1), data).compile()


def step_ms(config: VisionConfig, n_steps: int) -> float:
    """Milliseconds of a whole step."""
    state, numbers, data = inputs(config)
    return least_ms(lambda: chunk(config)(state, numbers, np.int32(n_steps), data)) / n_steps


def pass_ms(config: VisionConfig, n_steps: int, *, backward: bool) -> float:
    """Milliseconds of a forward pass alone, or with its gradient, on one fixed batch, without augmentation."""
    program, (state, numbers, data) = Program(config), inputs(config)
    images, labels = (part[: config.train.batch_size] for part in data)
    images, one_hot = to_model_range(images), jax.nn.one_hot(labels, config.data.classes)

    def loss(params: Any, index: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(0), index)
        prediction = program.model.apply({"params": params}, images, numbers, train=True, rngs={"dropout": key, "gating": key})
        return training_loss(prediction, one_hot)

    def body(index: jax.Array, params: Any) -> Any:
        # Small updates keep XLA from moving the pass out of the loop; the head's bias alone is 10 numbers.
        if backward:
            return jax.tree.map(lambda p, g: p - 1e-6 * g, params, jax.grad(loss)(params, index))
        head = params["head"]
        return {**params, "head": {**head, "bias": head["bias"] - 1e-6 * loss(params, index)}}

    run = jax.jit(lambda params: jax.lax.fori_loop(0, n_steps, body, params))
    return least_ms(lambda: run(state.params)) / n_steps


def least_ms(run: Callable[[], Any]) -> float:
    """Least CPU milliseconds of a call, after one that compiles."""
    jax.block_until_ready(run())
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        jax.block_until_ready(run())
        times.append(1e3 * (time.process_time() - started))
    return min(times)


def rates() -> dict[str, float]:
    """What one core can do: GFLOP/s of a large matrix product, and GB/s of a copy that fits in no cache."""
    matrix, vector = jnp.ones((LARGE, LARGE)), jnp.ones(COPIED)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1.0)
    return {
        "matmul_gflop_s": 2 * LARGE**3 / 1e6 / least_ms(lambda: product(matrix, matrix)),
        "memory_gb_s": 8 * COPIED / 1e6 / least_ms(lambda: copy(vector)),
    }


def shares(config: VisionConfig, n_steps: int) -> dict[str, float]:
    """Share of each part in the time that XLA's kernels take."""
    compiled, (state, numbers, data) = chunk(config), inputs(config)
    names = dict(re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', compiled.as_text(), re.MULTILINE))
    jax.block_until_ready(compiled(state, numbers, np.int32(n_steps), data))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(compiled(state, numbers, np.int32(n_steps), data))
        spent = _kernels(glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)[0], names)
    return {part: spent[part] / sum(spent.values()) for part, _ in PARTS if spent[part]}


def _kernels(trace: str, names: Mapping[str, str]) -> Counter[str]:
    """Nanoseconds by part. A loop is left out: what it runs is counted itself."""
    spent: Counter[str] = Counter()
    for plane in jax.profiler.ProfileData.from_file(trace).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name in names and not event.name.startswith(("while", "call", "conditional")):
                    spent[next(part for part, pattern in PARTS if re.search(pattern, names[event.name]))] += event.duration_ns
    return spent


def measured(n_steps: int) -> dict[str, Any]:
    """Everything, as one document."""
    load_start, config, known = machine.load(), workload.base(1000), rates()
    counted: Mapping[str, float] = chunk(config).cost_analysis()
    model_gflop = flops.cost(config)["cost/train_gflops"] * config.train.batch_size
    dry = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=0.0, expert_dropout=0.0))
    plain = dataclasses.replace(config, augment=dataclasses.replace(config.augment, mixup=0.0))
    return {
        "machine": machine.describe(),
        "core": known,
        "model_gflop_a_step": model_gflop,
        "hlo_gflop_a_step": counted["flops"] / 1e9,
        "hlo_gb_a_step": counted["bytes accessed"] / 1e9,
        "step_ms": step_ms(config, n_steps),
        "floor_ms": 1e3 * model_gflop / known["matmul_gflop_s"],
        "memory_floor_ms": 1e3 * counted["bytes accessed"] / 1e9 / known["memory_gb_s"],
        "forward_ms": pass_ms(config, n_steps, backward=False),
        "forward_and_backward_ms": pass_ms(config, n_steps, backward=True),
        "without_dropout_ms": step_ms(dry, n_steps),
        "without_mixup_ms": step_ms(plain, n_steps),
        "shares": shares(config, min(n_steps, 20)),
        "load_average": {"start": load_start, "end": machine.load()},
    }


def text(found: Mapping[str, Any]) -> str:
    """The table."""
    rate, where, whole_ms = found["core"]["matmul_gflop_s"], found["machine"], found["step_ms"]
    lines = [
        f"one core of {where['cores']} · {where['processor']} · jax {where['versions']['jax']} · {where['date']}",
        f"load average {found['load_average']['start']} at the start, {found['load_average']['end']} at the end",
        f"large matrix product {found['core']['matmul_gflop_s']:.0f} GFLOP/s, copy {found['core']['memory_gb_s']:.1f} GB/s",
        "",
        f"{'one step':58} {'ms':>7}  share",
    ]
    rows = {
        "measured": whole_ms,
        f"floor: {found['model_gflop_a_step']:.2f} GFLOP of the model's products at that rate": found["floor_ms"],
        f"{found['hlo_gflop_a_step']:.2f} GFLOP as XLA counts them, at that rate": 1e3 * found["hlo_gflop_a_step"] / rate,
        f"{found['hlo_gb_a_step']:.2f} GB that its kernels touch, if none were in a cache": found["memory_floor_ms"],
        "forward pass alone": found["forward_ms"],
        "forward and backward": found["forward_and_backward_ms"],
        "the step without dropout": found["without_dropout_ms"],
        "the step without mixup": found["without_mixup_ms"],
    }
    lines += [f"{name:58} {value:7.2f} {100 * value / whole_ms:5.0f}%" for name, value in rows.items()]
    lines += ["", "by part, of the time in kernels"]
    lines += [f"{name:58} {share * whole_ms:7.2f} {100 * share:5.0f}%" for name, share in found["shares"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="steps timed at once (default 50)")
    options = parser.parse_args()
    found = measured(options.steps)
    print(json.dumps(found, indent=1, ensure_ascii=False) if options.json else text(found))


if __name__ == "__main__":
    main()

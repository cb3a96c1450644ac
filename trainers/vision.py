"""The vision trainer: ViT, V-MoE and E³ on images. What a study file names, and `python -m trainers.vision` for one config.

The plan imports this module: JAX waits until `train`.
"""

from __future__ import annotations

import importlib.metadata
import pathlib
from collections.abc import Mapping, Sequence

from orchestrator.contract import FlatConfig, Host, Probe, Problem, build
from trainers import constraints, evaluations, flops
from trainers.config import VisionConfig

WIDTH = 4  # lanes of a pack: on a CPU they take turns, so more would only make the last pack of a study longer

TRAINED_BY = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")


class Vision:
    """See `orchestrator.contract.Trainer` for what each member promises."""

    name = "trainers.vision:Vision"
    version = "3"
    config_class = VisionConfig
    keeps = "train.keep_parameters"  # the key that makes a trial leave its parameters

    def problems(self, config: FlatConfig) -> Sequence[Problem]:
        built = build(VisionConfig, config)
        return [*constraints.problems(built), *evaluations.problems(built)]

    def misfits(self, config: FlatConfig, start: FlatConfig | pathlib.Path) -> Sequence[Problem]:
        """What will keep trials of a config from starting from those of another, or from a file, as far as names and shapes tell."""
        from trainers import initialize  # NumPy comes with it, and most plans need none

        origin = start if isinstance(start, pathlib.Path) else build(VisionConfig, start)
        return initialize.misfits(build(VisionConfig, config), origin)

    def cost(self, config: FlatConfig) -> Mapping[str, float]:
        return flops.cost(build(VisionConfig, config))

    def steps(self, config: FlatConfig) -> int:
        return build(VisionConfig, config).train.steps

    def width(self, config: FlatConfig) -> int:  # noqa: ARG002 - the same for every config
        return WIDTH

    def data_problem(self, config: FlatConfig) -> Problem | None:
        from trainers.data import beside, data_problem

        built = build(VisionConfig, config)
        return data_problem(built.data) or beside.problem(built.data, built.eval)

    def prepare(self, config: FlatConfig) -> None:
        from trainers.data import beside, prepare

        built = build(VisionConfig, config)
        prepare(built.data)
        beside.prepare_beside(built.eval)

    def probe(self, config: FlatConfig) -> Sequence[Probe]:
        from trainers.choosing import probe

        return list(probe(config, program=f"{self.name} {self.version}", width=WIDTH))

    def provenance(self) -> Mapping[str, str]:
        return {package: importlib.metadata.version(package) for package in TRAINED_BY}

    def preload(self) -> None:
        from trainers import preload

        preload.everything()

    def train(self, host: Host) -> None:
        from trainers.loop import train

        train(host, program=f"{self.name} {self.version}", width=WIDTH)

    def combine(self, files: Sequence[pathlib.Path], keys: Sequence[str], config: FlatConfig) -> Mapping[str, float]:
        from trainers import ensembles

        measured = build(VisionConfig, config).eval
        return ensembles.combine(files, keys, bins=measured.ece_bins, corrupted=measured.corruptions == "generated")


if __name__ == "__main__":
    from trainers import solo

    solo.main(Vision())

"""Which training settings does E³ need when images are few?

Two hundred settings of one small E³ are drawn evenly from a space (learning rate, weight decay, dropout, router noise, mixup,
weights of the balancing losses), all on one seed. After 100 steps the best third by validation NLL goes on, after 300 the best
third of those, and the rest is trained to the end: two thirds of the steps are never spent. All of it is one compiled
program. What comes out is a shortlist, not an effect: compare its head with the default on eight replicates before saying so.

Expected: learning rate decides, mixup and dropout help a model that is over-confident on 200 images; about 2 minutes on
two CPU cores.

    python launch.py studies/screening.py
"""

import dataclasses

from orchestrator import Arm, LogUniform, Objective, Replicates, Sampled, Study, SuccessiveHalving, Uniform
from trainers import presets
from trainers.config import VisionConfig


def e3(base: VisionConfig) -> VisionConfig:
    """E³ with two members. Dropout and mixup are on, if barely, so that every setting shares one program."""
    model = dataclasses.replace(base.model, k=2, members=2, tile=True, partition=True, dropout=0.01, expert_dropout=0.01)
    return dataclasses.replace(base, model=model, augment=dataclasses.replace(base.augment, mixup=0.01))


STUDY = Study(
    name="screening",
    trainer="trainers.vision:Vision",
    base=e3(presets.laptop()),
    arms=[
        Arm("default", {}, baseline=True),
        Sampled(
            {
                "optim.learning_rate": LogUniform(1e-3, 5e-2),
                "optim.weight_decay": LogUniform(1e-4, 1.0),
                "model.dropout": Uniform(0.01, 0.5),
                "model.expert_dropout": Uniform(0.01, 0.5),
                "model.router_noise": Uniform(0.0, 4.0),
                "model.importance_weight": LogUniform(1e-4, 1e-1),
                "augment.mixup": LogUniform(0.01, 1.0),
            },
            n=200,
            select="val/nll",
            stopping=SuccessiveHalving(first=100, factor=3),
        ),
    ],
    protocol=Replicates(1),
    objectives=[Objective("test/nll"), Objective("cost/train_gflops")],
)

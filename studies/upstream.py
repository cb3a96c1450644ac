"""Should an efficient ensemble be one before fine-tuning begins?

"Sparse MoEs meet Efficient Ensembles" (Allingham et al., TMLR 2022) pre-trains once and fine-tunes often. A V-MoE may become an E³
only when it is fine-tuned, since their parameters are the same and members share out its experts; an E³ may be one all along, or
become a V-MoE. So may ensembles: two fine-tunings of one pre-trained model (downstream) are cheap beside two of two (upstream).
Here all of it is small: upstream, 1,000 steps on 256 classes of contours drawn from formulas; downstream, 200 digits, by the paper's
fine-tuning recipe (SGD with momentum, cosine, gradients clipped to 10, expert dropout 0.1).

What came out, test NLL and error of 8 replicates, each on an upstream of its own where the arrow says so (± is the standard error):

    V-MoE → V-MoE       .293 ± .011   8.9 %      upstream ×2     .258 ± .014   7.0 %   of V-MoE → V-MoE, 4 pairs
    V-MoE → E³          .250 ± .008   7.2 %
    E³ → E³             .291 ± .007   8.3 %
    E³ → V-MoE          .284 ± .010   8.1 %
    one V-MoE → V-MoE   .315 ± .001   9.7 %      downstream ×2   .314 ± .001   9.8 %   of one V-MoE → V-MoE, 4 pairs
    V-MoE, E³ (no →)    .500, .499    12.8 %

Pre-training decides: .21 lower. An E³ need not be one before: made of a V-MoE it is .044 ± .007 below the V-MoE (p = .047 after
Holm), and E³ all along is not told from it. Two pre-trainings give an ensemble .035 below its members; two fine-tunings of one, .001:
from the same start they end alike, so that an upstream is luck that its replicates share: `one V-MoE` is one of the eight. All this is
of tiny models, and one run; the paper's own figures of this comparison were not at hand. About 5 minutes of CPU, on two cores.

    python launch.py studies/upstream.py
"""

import dataclasses

from orchestrator import Arm, Ensemble, Objective, Replicates, Study, Tune, Upstream, Values
from trainers import presets
from trainers.config import OptimConfig, VisionConfig


def fine_tuning(base: VisionConfig) -> VisionConfig:
    """The published recipe on the laptop's model and digits."""
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, expert_dropout=0.1),
        optim=OptimConfig(name="sgd", learning_rate=0.01, warmup_steps=30, clip_norm=10.0),
        train=dataclasses.replace(base.train, steps=300, rung_steps=150),
    )


VMOE = {"model.k": 2}
E3 = {"model.k": 1, "model.members": 2, "model.tile": True, "model.partition": True}
FORMULAS = {
    "data.dataset": "formulas",
    "data.classes": 256,
    "data.train_examples": 25_600,
    "optim.name": "adamw",
    "optim.learning_rate": 5e-3,
    "optim.warmup_steps": 100,
    "train.steps": 1000,
    "train.batch_size": 64,
    "train.rung_steps": 500,
}

ONE_V_MOE = Upstream("one V-MoE", FORMULAS | VMOE)
V_MOE = Upstream("V-MoE on formulas", FORMULAS | VMOE, seeds="paired")
E_3 = Upstream("E³ on formulas", FORMULAS | E3, seeds="paired")

STUDY = Study(
    name="upstream",
    trainer="trainers.vision:Vision",
    base=fine_tuning(presets.laptop()),
    arms=[
        Arm("V-MoE → V-MoE", VMOE | {"start.parameters": V_MOE}, baseline=True),
        Arm("V-MoE → E³", E3 | {"start.parameters": V_MOE}),
        Arm("E³ → E³", E3 | {"start.parameters": E_3}),
        Arm("E³ → V-MoE", VMOE | {"start.parameters": E_3}),
        Arm("one V-MoE → V-MoE", VMOE | {"start.parameters": ONE_V_MOE}),
        Arm("V-MoE", VMOE),
        Arm("E³", E3),
        Ensemble("upstream ×2", of="V-MoE → V-MoE", members=2),
        Ensemble("downstream ×2", of="one V-MoE → V-MoE", members=2),
    ],
    nuisance={"optim.learning_rate": Values(0.003, 0.01, 0.03, 0.1)},
    protocol=Tune(trials=4, select="val/nll", then=Replicates(8)),
    objectives=[Objective("test/nll"), Objective("test/error"), Objective("cost/train_gflops")],
)

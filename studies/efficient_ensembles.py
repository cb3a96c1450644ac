"""Which efficient ensemble is worth its price?

"Sparse MoEs meet Efficient Ensembles" (Allingham et al., TMLR 2022) sets E³ against the ensembles that cost little more than one
model: BatchEnsemble (members share kernels and own fast weights), MC dropout (members are samples of expert dropout) and MIMO
(members are subnetworks that see an image each), and against deep ensembles, which cost their members' sum. On ImageNet E³ is
best in NLL of all that cost less than two models (.622 against .638 for V-MoE, .648 for MC dropout, .636 and .672 for MIMO with 2
and 4 members, .682 for BatchEnsemble and .688 for ViT), and its members disagree most.

Deep ensembles train nothing here: they average what finished replicates predict. About 4 minutes on two CPU cores. The first
200 digits are no ImageNet: E³ is below V-MoE as in the paper, but so are all others, MIMO most. `docs/methods.md` has the table.

    python launch.py studies/efficient_ensembles.py
"""

from orchestrator import Arm, Ensemble, LogUniform, Objective, Replicates, Study, Tune
from trainers import presets

TILED = {"model.members": 2, "model.tile": True}
DENSE = {"model.moe_placement": "none"}

STUDY = Study(
    name="efficient-ensembles",
    trainer="trainers.vision:Vision",
    base=presets.laptop(),
    arms=[
        Arm("V-MoE", {"model.k": 2}, baseline=True),
        Arm("ViT", DENSE),
        Arm("BE ViT", DENSE | TILED | {"model.tile_at": 0, "model.batch_ensemble": True, "model.fast_weight_init": "sign"}),
        Arm("MC dropout V-MoE", TILED | {"model.k": 1, "model.tile_at": 1, "model.mc_dropout": True, "model.expert_dropout": 0.1}),
        Arm("MIMO V-MoE (M = 2)", {"model.k": 2, "model.members": 2, "model.mimo": True, "model.input_repetition": 0.6}),
        Arm("MIMO V-MoE (M = 4)", {"model.k": 2, "model.members": 4, "model.mimo": True, "model.input_repetition": 0.6}),
        Arm("E³", TILED | {"model.k": 1, "model.partition": True}),
        Ensemble("ViT ×2", of="ViT", members=2),
        Ensemble("V-MoE ×2", of="V-MoE", members=2),
        Ensemble("E³ ×2", of="E³", members=2),
    ],
    nuisance={"optim.learning_rate": LogUniform(2e-3, 3e-2)},
    protocol=Tune(trials=8, select="val/nll", then=Replicates(8)),
    objectives=[Objective("test/nll"), Objective("cost/train_gflops")],
)

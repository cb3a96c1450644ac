"""Does E³ need both tiling and partitioning?

"Sparse MoEs meet Efficient Ensembles" (Allingham et al., TMLR 2022) splits the experts of a sparse transformer among
ensemble members (partitioning) and lets each member see its own copy of every image from the first sparse block on
(tiling). This study takes one away at a time, at the same number of expert evaluations an image; σ×2 and σ×4 ask
whether more router noise makes tiled members differ. The paper's table on ImageNet: only both together help (NLL .612
against .636 for V-MoE), and only then do members disagree.

Expected here: E³ below V-MoE by about 0.1 in test NLL, tiling alone no better than V-MoE, partitioning in between. On
200 images the dense ViT is as good as E³: sparse experts need more to learn from. The laptop profile trains on the first
200 digits, long enough for a single model to be over-confident (about 4 minutes on two CPU cores); the paper profile is the
published setting. The seven arms are four programs: with tiling, partitioning and noise are arguments of one.

    python launch.py studies/ablation.py
"""

from orchestrator import Arm, Ensemble, LogUniform, Objective, Profiles, Replicates, Study, Tune, Values
from trainers import presets

EACH = {"model.k": 2, "model.members": 2}  # K = M = 2, against K = 4 of the single model

STUDY = Study(
    name="ablation",
    trainer="trainers.vision:Vision",
    base=Profiles(laptop=presets.laptop(), paper=presets.paper()),
    arms=[
        Arm("V-MoE", {"model.k": 4}, baseline=True),
        Arm("E³", EACH | {"model.tile": True, "model.partition": True}),
        Arm("Tiling", EACH | {"model.tile": True}),
        Arm("Tiling (σ×2)", EACH | {"model.tile": True, "model.router_noise": 2.0}),
        Arm("Tiling (σ×4)", EACH | {"model.tile": True, "model.router_noise": 4.0}),
        Arm("Partitioning", EACH | {"model.partition": True}),
        Arm("ViT", {"model.moe_placement": "none"}),
        Ensemble("ViT ×2", of="ViT", members=2),
        Ensemble("V-MoE ×2", of="V-MoE", members=2),
        Ensemble("E³ ×2", of="E³", members=2),
    ],
    nuisance={
        "optim.learning_rate": Profiles(
            laptop=LogUniform(2e-3, 3e-2),
            paper=Values(0.0024, 0.003, 0.01, 0.03),
        ),
    },
    protocol=Tune(trials=8, select="val/nll", then=Replicates(8)),
    objectives=[Objective("test/nll"), Objective("cost/train_gflops")],
)

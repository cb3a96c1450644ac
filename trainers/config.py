"""Config of the vision trainer, without JAX: study files and the plan import it.

Letters follow "Sparse MoEs meet Efficient Ensembles" (Allingham et al., TMLR 2022): K experts a token, M ensemble
members, E experts a layer. What each field does to the computation stands in `trainers/models/`.
"""

from __future__ import annotations

import dataclasses

from orchestrator.contract import artifact, outside, static, traced


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """What is learned from."""

    dataset: str = static("digits", "`digits`, `formulas` (drawn, to pre-train on), or the TFDS name of a dataset")
    classes: int = static(10, "number of classes of the dataset", low=2)
    image_size: int = static(8, "pixels a side after resizing", low=4)
    channels: int = static(1, "colour channels of an image", low=1, high=4)
    train_examples: int = static(0, "training images used, the first of the split; 0 uses all", low=0)
    train_size: int = static(0, "pixels a side in which training images are kept, for crops to be cut from; 0 is image_size", low=0)

    def at_most(self, split: str) -> int:
        """Images used of `train`, `val`, … at most; 0 uses all."""
        return self.train_examples if split == "train" else 0

    def size_of(self, split: str) -> int:
        """Pixels a side in which images of `train`, `val`, … are kept."""
        return self.train_size or self.image_size if split == "train" else self.image_size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A vision transformer: dense, sparse (V-MoE), or an efficient ensemble. `docs/methods.md` has the fields of each method."""

    hidden: int = static(32, "D, width of a token", low=1)
    mlp: int = static(64, "F, width of the hidden layer of an MLP or an expert", low=1)
    depth: int = static(4, "L, number of encoder blocks", low=1)
    heads: int = static(4, "attention heads", low=1)
    patch: int = static(2, "pixels a side of a patch", low=1)
    representation: int = static(0, "width of the tanh layer before the head; 0 leaves it out", low=0)
    head_bias: float = traced(0.0, "value the bias of the head starts from")
    dtype: str = static("float32", "type of activations; parameters are float32", choices=("float32", "bfloat16"))

    moe_placement: str = static(
        "last", "which blocks are sparse: none, the last n odd ones, or every n-th", choices=("none", "last", "every")
    )
    moe_layers: int = static(2, "the n of moe_placement", low=1)
    experts: int = static(8, "E, experts of a sparse layer, over all members", low=1)
    k: int = static(2, "K, experts that a token (of a member, if tiled) is sent to; in each partition, if partitioned", low=1)
    members: int = static(1, "M, ensemble members", low=1)
    tile: bool = static(False, "repeat the batch M times at the entrance of a block: one prediction a member")
    tile_at: int = static(-1, "index of the block at whose entrance the batch is tiled; -1 is the first sparse one", low=-1)
    partition: bool = traced(False, "give each member its own E/M experts and its own router", when="tile")
    overlap: int = static(0, "experts that a member takes beyond its own E/M, which are the first of the next member's", low=0)
    router_noise: float = traced(1.0, "router noise in units of 1/(experts a router sees): the σ of the paper times E", low=0.0)
    noise_normaliser: str = static("local", "experts that divide router_noise: those a router sees, or all", choices=("local", "all"))
    capacity_factor: float = static(1.5, "C, slots of expert buffers over assignments, in training", low=0.01)
    eval_capacity_factor: float = static(8.0, "C in evaluation", low=0.01)
    batch_priority: bool = static(False, "fill buffers by router confidence instead of by position (BPR)")
    group_images: int = static(0, "images, before tiling, whose tokens share expert buffers; 0 is the whole batch", low=0)
    importance_weight: float = traced(0.005, "weight of the importance loss", low=0.0)
    load_weight: float = traced(0.005, "weight of the load loss", low=0.0)

    dropout: float = traced(0.0, "dropout rate of dense MLPs", low=0.0, high=0.99, switch=True)
    attention_dropout: float = traced(0.0, "dropout rate of attention weights", low=0.0, high=0.99, switch=True)
    expert_dropout: float = traced(0.0, "dropout rate inside experts", low=0.0, high=0.99, switch=True)
    mc_dropout: bool = static(False, "keep expert dropout on in evaluation, where the batch is tiled: each member is a sample")

    batch_ensemble: bool = static(False, "fast weights and biases of each member in the dense MLPs from tile_at on")
    fast_weight_init: str = static("normal", "what fast weights start from: around 1, or random signs", choices=("normal", "sign"))
    fast_weight_spread: float = traced(
        0.5, "of fast_weight_init: their standard deviation, or the chance of +1", low=0.0, high=1.0, when="batch_ensemble"
    )
    fast_weight_rate: float = traced(1.0, "factor on the gradients of fast weights; none under AdamW", low=0.0, when="batch_ensemble")

    mimo: bool = static(False, "each member has an image of its own in one pass: M images side by side on the channel axis")
    batch_repetition: int = static(1, "times that MIMO sees each image of a batch in a step", low=1)
    input_repetition: float = traced(0.0, "share of a MIMO batch in which all members have the same image", low=0.0, high=1.0, when="mimo")

    member_heads: bool = static(False, "a head of its own for each member; untiled, all read the same token and start at random")
    member_loss: str = static("each", "what is trained: the loss of each member, or of their mean prediction", choices=("each", "mean"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OptimConfig:
    """Gradient clipping, then SGD with momentum or AdamW, under a cosine schedule with linear warm-up."""

    name: str = static("adamw", "optimizer", choices=("sgd", "adamw"))
    learning_rate: float = traced(3e-3, "peak of the schedule", low=0.0)
    end_learning_rate: float = traced(0.0, "value at the last step", low=0.0)
    warmup_steps: int = traced(0, "steps of linear warm-up from 0, counted in `train.steps`", low=0)
    momentum: float = traced(0.9, "decay of SGD's momentum", low=0.0, high=1.0)
    b1: float = traced(0.9, "AdamW's decay of the first moment", low=0.0, high=1.0)
    b2: float = traced(0.999, "AdamW's decay of the second moment", low=0.0, high=1.0)
    weight_decay: float = traced(0.0, "decoupled, on kernels, scaled by the learning rate", low=0.0)
    clip_norm: float = traced(10.0, "global norm that gradients are clipped to", low=0.0)
    momentum_dtype: str = static("float32", "type of SGD's accumulator", choices=("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes of training images, on the device."""

    mixup: float = traced(0.0, "p of Beta(p, p), the weight of an image against its neighbour; 0 is off", low=0.0, switch=True)
    crop: bool = static(False, "random resized crop (Inception style)")
    crop_min_area: float = traced(0.05, "smallest share of the image that a crop keeps", low=0.01, high=1.0)
    flip: bool = static(False, "mirror images left to right with probability 1/2")
    randaugment_layers: int = static(0, "N of RandAugment: changes drawn for each image, one after another; 0 is off", low=0, high=8)
    randaugment_magnitude: float = traced(10.0, "M of RandAugment, how strong they are", low=0.0, high=30.0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """How long, on how many images at once, and when to look."""

    steps: int = traced(1000, "optimizer steps", low=1)
    batch_size: int = static(32, "images a step, before tiling", low=1)
    rung_steps: int = static(100, "steps between evaluations on validation data, reports and checkpoints", low=1)
    keep_parameters: bool = outside(False, "leave the trained parameters, for other trials to start from")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StartConfig:
    """What training starts from, instead of freshly drawn parameters. `docs/methods.md` says what may differ."""

    parameters: str = artifact("what training starts from: parameters of an earlier trial, or a file of them; empty starts afresh")
    fresh_head: bool = outside(False, "start with a new head though the file has one of the right shape")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """How a trained model is measured."""

    batch_size: int = static(0, "images a batch, before tiling; 0 takes all when they fit, else 512", low=0)
    ece_bins: int = static(15, "equal-width confidence bins of the calibration error", low=1)
    corrupted: bool = static(True, "also measure on the corrupted test split, where the dataset has one")
    corruptions: str = static(
        "none",
        "15 corruptions at 5 severities of the test images: none, made here, or published (CIFAR-10-C, ImageNet-C)",
        choices=("none", "generated", "published"),
    )
    ood: tuple[str, ...] = static((), "sets of images of no class of the dataset, to be told from its test images")
    few_shot: tuple[str, ...] = static((), "datasets that are learned linearly from 1, 5, 10 and 25 images a class")
    few_shot_draws: int = static(3, "times that those images are drawn; accuracies are means over draws", low=1)
    load: bool = static(False, "also measure which share of tokens each expert gets, in one more pass over the test images")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VisionConfig:
    """Everything that decides what a vision trial computes, beside its seed."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    start: StartConfig = StartConfig()
    eval: EvalConfig = EvalConfig()

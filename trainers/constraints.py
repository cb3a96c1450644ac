"""What is wrong with a vision config whose single values are fine, without JAX: the plan asks this of every cell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from orchestrator.contract import Problem, Value
from trainers.config import ModelConfig, VisionConfig
from trainers.geometry import copies, predictions, routed_experts, sparse_blocks, tile_block


def problems(config: VisionConfig) -> list[Problem]:
    """Every cross-field problem of the config, in the order in which its fields are declared."""
    model = config.model
    return [
        *_image(config),
        *_placement(model),
        *_members(model),
        *_tiling(model),
        *_routing(model),
        *_methods(model),
        *_fast_weights(config),
        *_groups(config),
        *_optimizer(config),
    ]


def _optimizer(config: VisionConfig) -> Iterator[Problem]:
    if config.optim.name != "sgd" and config.optim.momentum_dtype != "float32":
        yield Problem(
            f"optim.momentum_dtype is of an accumulator that {config.optim.name} does not have",
            found=f"optim.momentum_dtype={config.optim.momentum_dtype!r} with optim.name={config.optim.name!r}",
            expected="float32, or optim.name='sgd'",
            fix="leave optim.momentum_dtype out, or train with SGD",
        )


def _image(config: VisionConfig) -> Iterator[Problem]:
    data, model = config.data, config.model
    if data.image_size < model.patch:
        yield Problem(
            "model.patch is larger than the image",
            found=f"patches of {model.patch} pixels in an image of {data.image_size}",
            expected=f"at most {data.image_size}, best a divisor: {_listed(_divisors(data.image_size))}",
            fix="change model.patch or data.image_size",
        )
    if model.hidden % model.heads:
        yield Problem(
            "model.heads does not divide model.hidden",
            found=f"{model.heads} heads for a width of {model.hidden}",
            expected=f"a divisor of {model.hidden}: {_listed(_divisors(model.hidden))}",
            fix="change model.heads or model.hidden",
        )


def _placement(model: ModelConfig) -> Iterator[Problem]:
    odd = model.depth // 2
    if model.moe_placement == "last" and model.moe_layers > odd:
        yield Problem(
            "model.moe_layers asks for more sparse blocks than there are odd ones",
            found=f"the last {model.moe_layers} odd blocks of {model.depth}",
            expected=f"1 to {odd}: blocks 1, 3, … are odd" if odd else "a model of 2 blocks or more: the first odd one is block 1",
            fix="lower model.moe_layers, raise model.depth, or place them with model.moe_placement='every'",
        )
    if model.moe_placement == "every" and model.moe_layers > model.depth:
        yield Problem(
            "model.moe_layers leaves no block sparse",
            found=f"every {model.moe_layers}th block of {model.depth}",
            expected=f"1 to {model.depth}",
            fix="lower model.moe_layers, or say model.moe_placement='none'",
        )


def _members(model: ModelConfig) -> Iterator[Problem]:
    switches = ("tile", "partition", "mimo", "member_heads")
    ensemble = [f"model.{name}=True" for name in switches if getattr(model, name)]
    differ_when_dense = model.batch_ensemble or model.mimo or model.member_heads
    if model.moe_placement == "none" and (model.partition or ((model.members > 1 or model.tile) and not differ_when_dense)):
        yield Problem(
            "an ensemble of experts needs sparse blocks",
            found=f"model.moe_placement='none' with {', '.join([f'model.members={model.members}', *ensemble])}",
            expected="a dense model with model.members=1, untiled and unpartitioned; or one of batch_ensemble, mimo and member_heads",
            fix="place sparse blocks with model.moe_placement, or drop members, tile and partition",
        )
    elif ensemble and model.members == 1:
        yield Problem(
            "an ensemble needs several members",
            found=f"model.members=1 with {_and(ensemble)}",
            expected="model.members of 2 or more",
            fix=f"raise model.members, or set {_and(text.removesuffix('=True') for text in ensemble)} to False",
        )
    elif model.members > 1 and not ensemble:
        yield Problem(
            "model.members has no effect",
            found=f"model.members={model.members} with {_and(switches)} all False",
            expected="model.tile=True, model.partition=True, or both (E³); or model.mimo=True, or model.member_heads=True",
            fix="set one of them, or model.members=1",
        )


def _tiling(model: ModelConfig) -> Iterator[Problem]:
    """Where the batch is tiled, and whether members differ from there on."""
    sparse, first = sparse_blocks(model), tile_block(model)
    if not model.tile:
        if model.tile_at >= 0:
            yield _idle("model.tile_at", model.tile_at, -1, needs="model.tile=True")
        return
    differs_anyway = model.batch_ensemble or model.member_heads
    if first is None:
        if differs_anyway:
            yield Problem(
                "model.tile_at has to say where a dense model is tiled",
                found="model.tile=True with model.moe_placement='none' and model.tile_at=-1, the first sparse block",
                expected=f"0 to {model.depth - 1}, the index of a block",
                fix="set model.tile_at",
            )
        return
    if first >= model.depth:
        yield Problem(
            "model.tile_at is not a block of the model",
            found=f"block {first} of {model.depth}, counted from 0",
            expected=f"0 to {model.depth - 1}",
            fix="lower model.tile_at, or raise model.depth",
        )
    elif sparse and model.partition and first > sparse[0]:
        yield Problem(
            "the first partitioned block lies before model.tile_at",
            found=f"the batch is tiled at block {first}, the first sparse block is {sparse[0]}",
            expected=f"0 to {sparse[0]}, or -1: members are partitioned from the first sparse block on",
            fix="lower model.tile_at, or set model.partition=False",
        )
    elif sparse and first > sparse[-1] and not differs_anyway:
        yield Problem(
            "all members would be equal",
            found=f"the batch is tiled at block {first}, after the last sparse block {sparse[-1]}",
            expected=f"0 to {sparse[-1]}, or -1",
            fix="lower model.tile_at",
        )


def _methods(model: ModelConfig) -> Iterator[Problem]:
    """Switches of single methods that miss what they act on, or exclude each other."""
    if model.mimo:
        others = ("tile", "partition", "member_heads")
        if clash := [f"model.{name}=True" for name in others if getattr(model, name)]:
            yield Problem(
                "MIMO members share one pass and all experts",
                found=f"model.mimo=True with {_and(clash)}",
                expected=f"model.mimo=True with {_and(f'model.{name}=False' for name in others)}; outputs are separate as it is",
                fix="drop model.mimo, or the others",
            )
    else:
        for name, idle in (("batch_repetition", 1), ("input_repetition", 0.0)):
            if getattr(model, name) != idle:
                yield _idle(f"model.{name}", getattr(model, name), idle, needs="model.mimo=True")
    if model.overlap and not model.partition:
        yield _idle("model.overlap", model.overlap, 0, needs="model.partition=True")
    if model.batch_ensemble and not any(_has_dense_tiled(model)):
        yield _idle("model.batch_ensemble", True, False, needs="model.tile=True and a dense MLP in a tiled block")
    if model.mc_dropout and not (model.tile and sparse_blocks(model) and model.expert_dropout):
        needs = "sparse blocks, model.tile=True and model.expert_dropout above 0"
        yield _idle("model.mc_dropout", True, False, needs=needs)
    if model.member_loss == "mean" and (predictions(model) == 1 or model.mimo):
        needs = "several predictions of the same image (model.tile or model.member_heads)"
        yield _idle("model.member_loss", "mean", "each", needs=needs)


def _has_dense_tiled(model: ModelConfig) -> Iterator[bool]:
    yield from (copies(model, block) > 1 and block not in sparse_blocks(model) for block in range(model.depth))


def _fast_weights(config: VisionConfig) -> Iterator[Problem]:
    model, optim = config.model, config.optim
    if model.batch_ensemble and model.fast_weight_rate != 1.0 and optim.name == "adamw":
        yield Problem(
            "model.fast_weight_rate has no effect under AdamW",
            found=f"model.fast_weight_rate={model.fast_weight_rate} with optim.name='adamw', which divides gradients by their size",
            expected="model.fast_weight_rate=1.0, or optim.name='sgd'",
            fix="change one of them",
        )


def _routing(model: ModelConfig) -> Iterator[Problem]:
    if model.moe_placement == "none":
        return
    if model.partition and model.experts % model.members:
        yield Problem(
            "model.members does not divide model.experts",
            found=f"{model.experts} experts in {model.members} partitions",
            expected=f"a divisor of {model.experts}: {_listed(_divisors(model.experts))}",
            fix="change model.members or model.experts",
        )
        return
    if model.partition and model.experts // model.members + model.overlap > model.experts:
        yield Problem(
            "model.overlap is more than the other members have",
            found=f"{model.experts // model.members} experts of its own and {model.overlap} of others, of {model.experts}",
            expected=f"0 to {model.experts - model.experts // model.members}; at the most every member sees all experts",
            fix="lower model.overlap",
        )
        return
    seen = routed_experts(model)
    if model.k > seen:
        yield Problem(
            "model.k is more than a router has experts",
            found=f"k={model.k} of {seen} experts" + (f" ({model.experts} in {model.members} partitions)" if model.partition else ""),
            expected=f"1 to {seen}" + (", which is experts / members" + " + overlap" * (model.overlap > 0) if model.partition else ""),
            fix="lower model.k" + (" or model.members" if model.partition else "") + ", or raise model.experts",
        )


def _groups(config: VisionConfig) -> Iterator[Problem]:
    group = config.model.group_images
    if config.model.moe_placement == "none" or not group:
        return
    rows = config.train.batch_size * config.model.batch_repetition
    for key, batch in (("train.batch_size", rows), ("eval.batch_size", config.eval.batch_size)):
        if batch % group:
            yield Problem(
                f"{key} is not a multiple of model.group_images",
                found=f"a batch of {batch} in groups of {group}",
                expected=f"a multiple of {group}, such as {-(-batch // group) * group}",
                fix=f"change {key}, or model.group_images (0 is the whole batch)",
            )


def _idle(key: str, value: Value, idle: Value, *, needs: str) -> Problem:
    return Problem(f"{key} has no effect", found=f"{key}={value!r}", expected=f"{key}={idle!r}, or {needs}", fix=f"set {key}={idle!r}")


def _and(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _listed(numbers: list[int], *, at_most: int = 8) -> str:
    if len(numbers) <= at_most:
        return ", ".join(map(str, numbers))
    return ", ".join([*map(str, numbers[: at_most - 1]), "…", str(numbers[-1])])

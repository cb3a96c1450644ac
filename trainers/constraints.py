"""What is wrong with a vision config whose single values are fine, without JAX: the plan asks this of every cell."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.contract import Problem
from trainers.config import ModelConfig, VisionConfig


def problems(config: VisionConfig) -> list[Problem]:
    """Every cross-field problem of the config, in the order in which its fields are declared."""
    return [*_image(config), *_placement(config.model), *_members(config.model), *_routing(config.model), *_groups(config)]


def _image(config: VisionConfig) -> Iterator[Problem]:
    data, model = config.data, config.model
    if data.image_size % model.patch:
        yield Problem(
            "model.patch does not divide data.image_size",
            found=f"patches of {model.patch} pixels in an image of {data.image_size}",
            expected=f"a divisor of {data.image_size}: {_listed(_divisors(data.image_size))}",
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
    ensemble = [f"model.{name}=True" for name in ("tile", "partition") if getattr(model, name)]
    if model.moe_placement == "none":
        if model.members > 1 or ensemble:
            yield Problem(
                "an ensemble of experts needs sparse blocks",
                found=f"model.moe_placement='none' with {', '.join([f'model.members={model.members}', *ensemble])}",
                expected="a dense model with model.members=1, untiled and unpartitioned",
                fix="place sparse blocks with model.moe_placement, or drop members, tile and partition",
            )
    elif ensemble and model.members == 1:
        yield Problem(
            "tile and partition need several members",
            found=f"model.members=1 with {' and '.join(ensemble)}",
            expected="model.members of 2 or more",
            fix="raise model.members, or set tile and partition to False",
        )
    elif model.members > 1 and not ensemble:
        yield Problem(
            "model.members has no effect",
            found=f"model.members={model.members} with tile and partition both False",
            expected="model.tile=True, model.partition=True, or both (E³)",
            fix="set one of them, or model.members=1",
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
    seen = model.experts // model.members if model.partition else model.experts
    if model.k > seen:
        yield Problem(
            "model.k is more than a router has experts",
            found=f"k={model.k} of {seen} experts" + (f" ({model.experts} in {model.members} partitions)" if model.partition else ""),
            expected=f"1 to {seen}" + (", which is experts / members" if model.partition else ""),
            fix="lower model.k" + (" or model.members" if model.partition else "") + ", or raise model.experts",
        )


def _groups(config: VisionConfig) -> Iterator[Problem]:
    group = config.model.group_images
    if config.model.moe_placement == "none" or not group:
        return
    for key, batch in (("train.batch_size", config.train.batch_size), ("eval.batch_size", config.eval.batch_size)):
        if batch % group:
            yield Problem(
                f"{key} is not a multiple of model.group_images",
                found=f"a batch of {batch} in groups of {group}",
                expected=f"a multiple of {group}, such as {-(-batch // group) * group}",
                fix=f"change {key}, or model.group_images (0 is the whole batch)",
            )


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _listed(numbers: list[int], *, at_most: int = 8) -> str:
    if len(numbers) <= at_most:
        return ", ".join(map(str, numbers))
    return ", ".join([*map(str, numbers[: at_most - 1]), "…", str(numbers[-1])])

"""What the command line takes."""

from __future__ import annotations

import itertools

import pytest

from orchestrator import cli

WORDS = (["studies/ablation.py"], ["--out", "elsewhere"], ["plan"])


@pytest.mark.parametrize("order", [order for order in itertools.permutations(WORDS) if order.index(WORDS[0]) < order.index(WORDS[2])])
def test_options_may_stand_anywhere(order: tuple[list[str], ...]) -> None:
    options = cli.parser().parse_intermixed_args([word for words in order for word in words])
    assert (str(options.study), str(options.out), options.command) == ("studies/ablation.py", "elsewhere", "plan")

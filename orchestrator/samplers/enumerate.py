"""Every point of a finite define-by-run space, in order: a function that suggests is called once for each path through it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna


def enumerate_space(space: Callable[[optuna.trial.BaseTrial], object]) -> list[dict[str, Any]]:
    """The suggested parameters of every path through a space, the last suggestion varying fastest.

    For independent suggestions this is `itertools.product`. What is suggested may depend on earlier suggestions; a path
    that raises `optuna.TrialPruned` is left out. Optuna's own `BruteForceSampler` visits the same paths in random order
    and forgets them when the space is edited.

    Args:
        space: Suggests on the trial. It must suggest the same after the same answers. Its result is not used.

    Raises:
        ValueError: Something suggested is not finite, such as a float without a step.

    >>> enumerate_space(lambda trial: trial.suggest_int("a", 0, 1) and trial.suggest_categorical("b", ["x", "y"]))
    [{'a': 0}, {'a': 1, 'b': 'x'}, {'a': 1, 'b': 'y'}]
    """
    import optuna

    from orchestrator.samplers.replay import Replay

    leaves: list[dict[str, Any]] = []
    path: list[int] = []
    while True:
        trial = Replay(number=len(leaves), path=path)
        try:
            space(trial)
            leaves.append(trial.params)
        except optuna.TrialPruned:
            pass
        if not trial.advance():
            return leaves
        path = trial.path

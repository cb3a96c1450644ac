"""Where points of a search space come from: listed exhaustively, drawn evenly, or led by earlier results."""

from orchestrator.samplers.base import Past, SamplerKind
from orchestrator.samplers.enumerate import enumerate_space
from orchestrator.samplers.propose import propose

__all__ = ["Past", "SamplerKind", "enumerate_space", "propose"]

"""Vision transformers: dense, sparse (V-MoE), and efficient ensembles of sparse ones (E³), in Flax linen."""

from __future__ import annotations

from trainers.models.vit import Prediction, Vit, make_model

__all__ = ["Prediction", "Vit", "make_model"]

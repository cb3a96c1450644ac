"""What training imports sooner or later, imported at once, in the process that workers are forked from.

No device may be touched here, and no thread started: tests/unit/test_nursery.py sees to both.
"""

from __future__ import annotations

import importlib

TRAINING = ("trainers.loop", "trainers.data.reading")
# Imported by others on the way to the first step, each taking a worker 20 to 300 ms.
LATER = (
    "array_record.python.array_record_data_source",
    "flatbuffers",
    "jax.experimental.multihost_utils",
    "jax.export",
    "jax._src.export.serialization",
    "jaxlib.mlir.dialects.mhlo",
    "scipy.linalg",
    "tensorflow_datasets.core.data_sources.array_record",
    "tensorflow_datasets.public_api",
    "tree",
)


def everything() -> None:
    """Imports it all. What is not installed is left to whoever needs it to say so."""
    for name in (*TRAINING, *LATER):
        try:
            importlib.import_module(name)
        except ImportError:
            if name in TRAINING:
                raise

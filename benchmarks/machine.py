"""What a figure is true for: the machine, the software and what else ran."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from collections.abc import Mapping

import psutil

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "optuna", "ray", "submitit", "sqlalchemy", "xmanager")

# glibc then keeps freed memory instead of handing each large buffer back to the system and asking for it again.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def device(environment: Mapping[str, str]) -> tuple[str, str]:
    """Platform and kind of JAX's first device, such as `("gpu", "NVIDIA H200")`, asked in a process of its own."""
    code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='|')"
    said = subprocess.run([sys.executable, "-c", code], env=dict(environment), capture_output=True, text=True, check=True).stdout
    name, _, kind = said.strip().splitlines()[-1].partition("|")
    return name, kind


def describe() -> dict[str, object]:
    """Cores, processor, memory, versions, and the date."""
    return {
        "cores": cores(),
        "processor": _processor(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def load() -> list[float]:
    """Load averages over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def _processor() -> str:
    found = dict(
        (part.strip() for part in line.split(":", 1))
        for line in pathlib.Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        if ":" in line
    )
    return " ".join(filter(None, (found.get("model name", platform.machine()), _family(found))))


def _family(found: Mapping[str, str]) -> str:
    return f"(family {found['cpu family']}, model {found['model']})" if "cpu family" in found and "model" in found else ""


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""

"""The benchmark of the ways that images are kept measures all of them on the same files, and prints what it saves."""

from __future__ import annotations

import json

import pytest

from benchmarks import input as benchmark
from trainers.data.ways import Way


def test_every_way_is_measured_beside_decoding_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TFDS_DATA_DIR", "set by the benchmark, and set back after this")
    found = benchmark.measured(n_images=32, size=16, repeats=1)
    assert list(found["rows"]) == [*Way, "decode alone", "resize alone"]
    assert all(value > 0 for row in found["rows"].values() for value in row.values())
    assert 90 < found["mean_file_kb"] < 110
    assert [line.split("  ")[0] for line in benchmark.text(found).splitlines()[5:]] == list(found["rows"])


def test_the_saved_figures_are_of_all_ways() -> None:
    saved = json.loads(benchmark.RESULT.read_text("utf-8"))
    assert list(saved["rows"]) == [*Way, "decode alone", "resize alone"]
    assert saved["rows"]["streamed"]["cpu_ms"] > saved["rows"]["decode alone"]["cpu_ms"]

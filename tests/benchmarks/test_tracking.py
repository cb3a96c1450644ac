"""benchmarks/tracking.py runs, and says so when a row is missing."""

from __future__ import annotations

from benchmarks.tracking import measured, text


def test_every_row_of_every_live_run_is_looked_for() -> None:
    document = measured(runs=3, rows=4)
    assert document["each_row_once"]
    assert set(document["parts_cpu_s"]) == {"start", "rows", "finish"}
    shown = text(document)
    assert shown.startswith("3 live runs of 4 rows, CPU seconds of all processes but the server's\n")
    assert "each row is on the server once" in shown
    assert "ROWS ARE MISSING" in text({**document, "each_row_once": False})

"""Prints what must be the same after a run that had nothing to do: every trial's state, its attempts, its results."""

from __future__ import annotations

import hashlib
import sqlite3
import sys

FACTS = {
    "trials by state": "SELECT state, count(*) FROM trials GROUP BY state ORDER BY state",
    "finished twice": "SELECT trial FROM attempts WHERE outcome IN ('complete', 'diverged') GROUP BY trial HAVING count(*) > 1",
    "attempts": "SELECT outcome, count(*) FROM attempts GROUP BY outcome ORDER BY outcome",
    "workers": "SELECT count(*) FROM workers",
    "results": "SELECT trial, step, name, value FROM measurements ORDER BY trial, step, name",
}


def main(path: str) -> int:
    ledger = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    facts = {name: ledger.execute(query).fetchall() for name, query in FACTS.items()}
    facts["results"] = [(len(facts["results"]), hashlib.sha256(repr(facts["results"]).encode()).hexdigest()[:16])]
    for name, rows in facts.items():
        print(f"{name}: {', '.join(' '.join(str(value) for value in row) for row in rows) or 'none'}")
    return 1 if facts["finished twice"] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))

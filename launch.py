"""Runs a study: `python launch.py studies/ablation.py`; `--help` says what else."""

from orchestrator.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""The only truth of every study: plans, leases, measurements, in one SQL database."""

from orchestrator.ledger.database import LedgerUnavailableError
from orchestrator.ledger.ledger import Ledger
from orchestrator.ledger.opening import NoLedgerError
from orchestrator.ledger.rows import (
    ArtifactRow,
    CellRow,
    DecisionRow,
    Entry,
    EventRow,
    Leased,
    Member,
    MemberRow,
    PlanRows,
    ProgressRow,
    TrialRow,
    TrialRows,
    WorkerRow,
)

__all__ = [
    "ArtifactRow",
    "CellRow",
    "DecisionRow",
    "Entry",
    "EventRow",
    "Leased",
    "Ledger",
    "LedgerUnavailableError",
    "Member",
    "MemberRow",
    "NoLedgerError",
    "PlanRows",
    "ProgressRow",
    "TrialRow",
    "TrialRows",
    "WorkerRow",
]

"""The only truth of every study: plans, leases, measurements, in one SQL database."""

from orchestrator.ledger.database import LedgerUnavailableError, Patience
from orchestrator.ledger.ending import BOUNDS
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
    Trouble,
    WorkerRow,
)

__all__ = [
    "BOUNDS",
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
    "Patience",
    "PlanRows",
    "ProgressRow",
    "TrialRow",
    "TrialRows",
    "Trouble",
    "WorkerRow",
]

"""Tessera's orchestrator. This namespace holds what a study file needs; everything else is imported from its module."""

from orchestrator.axes import IntUniform as IntUniform
from orchestrator.axes import LogUniform as LogUniform
from orchestrator.axes import Uniform as Uniform
from orchestrator.axes import Values as Values
from orchestrator.designs import Arm as Arm
from orchestrator.designs import Cross as Cross
from orchestrator.designs import Grid as Grid
from orchestrator.designs import LeaveOneOut as LeaveOneOut
from orchestrator.designs import OneFactorAtATime as OneFactorAtATime
from orchestrator.designs import Sampled as Sampled
from orchestrator.ensembles import Ensemble as Ensemble
from orchestrator.replicates import Adaptive as Adaptive
from orchestrator.replicates import Replicates as Replicates
from orchestrator.stopping.halving import SuccessiveHalving as SuccessiveHalving
from orchestrator.stopping.pareto import ParetoHalving as ParetoHalving
from orchestrator.study import Objective as Objective
from orchestrator.study import Profiles as Profiles
from orchestrator.study import Role as Role
from orchestrator.study import Study as Study
from orchestrator.study import Tune as Tune
from orchestrator.upstream import File as File
from orchestrator.upstream import Upstream as Upstream

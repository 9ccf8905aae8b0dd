"""Solvers: numerical methods that integrate from noise to data with a denoiser."""

from kgen.solvers.ancestral import Ancestral
from kgen.solvers.clipped_ddim import ClippedDDIM
from kgen.solvers.consistency import Consistency
from kgen.solvers.ddim import DDIM
from kgen.solvers.dormand_prince import DormandPrince
from kgen.solvers.dpm_solver import DPMSolver
from kgen.solvers.euler_maruyama import EulerMaruyama
from kgen.solvers.heun import Heun
from kgen.solvers.langevin import AnnealedLangevin, PredictorCorrector
from kgen.solvers.pndm import PNDM
from kgen.solvers.solver import Solver, solve
from kgen.solvers.unipc import UniPC
from kgen.types import SolverName

SOLVERS = {
    "consistency": Consistency,
    "ddim": DDIM,
    "dormand_prince": DormandPrince,
    "dpm": DPMSolver,
    "euler_maruyama": EulerMaruyama,
    "heun": Heun,
    "langevin": AnnealedLangevin,
    "pndm": PNDM,
    "predictor_corrector": PredictorCorrector,
    "unipc": UniPC,
}

__all__ = [
    "DDIM",
    "PNDM",
    "SOLVERS",
    "Ancestral",
    "AnnealedLangevin",
    "ClippedDDIM",
    "Consistency",
    "DPMSolver",
    "DormandPrince",
    "EulerMaruyama",
    "Heun",
    "PredictorCorrector",
    "Solver",
    "UniPC",
    "get",
    "solve",
]


def get(solver: SolverName | Solver) -> Solver:
    """Returns a solver given by name or as an instance.

    Args:
        solver: a key of `SOLVERS`, for that solver with its default options, or a `Solver`.

    Returns:
        A `Solver`.

    Raises:
        ValueError: for anything else.

    Example:
        >>> get("dpm")
        DPMSolver(grid='log_snr', order=2, sde=False)
    """
    if isinstance(solver, Solver):
        return solver
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]()
    raise ValueError(
        f"`solver` must be a Solver or one of {sorted(SOLVERS)}. Received: solver={solver!r}."
    )

"""Compare solvers: error against number of network evaluations, with an exact denoiser.

    python examples/compare_solvers.py --output runs/solvers.png

The data are a mixture of Gaussians in the plane, whose E[x given z_t] is known, so nothing is
trained and the only error is the solver's. It is measured at t = 0 as the root mean square distance
from a solution with 4,000 steps, from the same noise; lines of slope -1, -2, -3 show the orders.
"""

import argparse
import pathlib

import numpy as np
import tensorflow as tf

from kgen.diffusion import SCALINGS, CosineLogSNR, GaussianDiffusion, time_grid
from kgen.solvers import DDIM, DPMSolver, Heun, UniPC, solve
from kgen.tensors import expand_to

SOLVERS = {
    "DDIM": DDIM(),
    "Heun": Heun(),
    "DPMSolver(2)": DPMSolver(2),
    "DPMSolver(3)": DPMSolver(3),
    "UniPC(2)": UniPC(2),
}
WEIGHTS = np.array([0.3, 0.5, 0.2])
MEANS = np.array([[-1.0, -0.5], [0.8, 1.0], [0.5, -1.2]])
STD = 0.3


def mixture_denoiser(process):
    """Returns the exact denoiser of the mixture, E[x given z_t = z]."""

    def denoise(z, t):
        means, weights = (tf.constant(a, z.dtype) for a in (MEANS, WEIGHTS))
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma(t))
        variance = alpha**2 * STD**2 + sigma**2
        shift = z[:, None] - alpha * means
        logits = tf.math.log(weights) - tf.reduce_sum(shift**2, -1) / (2 * variance)
        gain = STD**2 * alpha / variance
        return tf.einsum("bk,bkd->bd", tf.nn.softmax(logits), means + gain * shift)

    return denoise


def solution(solver, process, num_points=200):
    """Returns a compiled function from a number of steps to the samples at t = 0, `[B, 2]`."""
    denoise = mixture_denoiser(process)
    z = process.prior(tf.zeros([num_points, 2], tf.float64)).sample(tf.constant([1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def end(num_steps):
        return solve(solver, denoise, process, z, time_grid(process, num_steps, dtype=z.dtype))

    return end.get_concrete_function()


def errors(solver, process, exact, evaluations):
    """Returns the root mean square errors, and the numbers of evaluations that were made."""
    end = solution(solver, process)
    counts, values = [], []
    for budget in evaluations:
        num_steps = next(n for n in range(budget, 0, -1) if solver.nfe(n) <= budget or n == 1)
        counts.append(solver.nfe(num_steps))
        values.append(np.sqrt(np.mean((end(tf.constant(num_steps)) - exact) ** 2)))
    return counts, values


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/solvers.png"))
    parser.add_argument("--scaling", choices=sorted(SCALINGS), default="vp")
    parser.add_argument(
        "--most", type=int, default=320, help="largest number of evaluations of a run"
    )
    args = parser.parse_args(argv)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    evaluations = [n for n in (5, 10, 20, 40, 80, 160, 320, 640) if n <= args.most]
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0), args.scaling)
    exact = solution(DPMSolver(3), process)(tf.constant(4000))
    figure, axis = pyplot.subplots(figsize=(6, 4.5))
    print("evaluations  " + "".join(f"{n:>11}" for n in evaluations))
    for name, solver in SOLVERS.items():
        counts, values = errors(solver, process, exact, evaluations)
        print(f"{name:<13}" + "".join(f"{value:>11.2e}" for value in values))
        axis.loglog(counts, values, "o-", label=f"{name}, order {solver.order}")
    for order in (1, 2, 3):
        line = 0.3 * (np.array(evaluations) / evaluations[0]) ** -float(order)
        axis.loglog(evaluations, line, ":", color="grey")
    axis.set(xlabel="evaluations of the network", ylabel="root mean square error at t = 0")
    axis.legend()
    figure.tight_layout()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=100)


if __name__ == "__main__":
    main()

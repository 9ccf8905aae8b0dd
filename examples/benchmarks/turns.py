"""Alternating benchmark of two sides: kgen in this interpreter, PyTorch in another one.

Each side is a process for the whole benchmark. A round is one block of `--steps` calls of each
side; the order changes from round to round, so that a slower machine affects both. The ratio is
computed per round. PyTorch, which kgen does not require, may be in another interpreter
(`--torch-python`). Both sides use the same processors and number of threads, and report their peak
memory.
"""

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time

WARM_UP = 2
HIDDEN = ("torch_python", "worker", "json")
INSTALL = (
    "The other side of this benchmark needs PyTorch and diffusers: "
    "`python -m venv venv_torch && venv_torch/bin/pip install torch diffusers`, "
    "then add `--torch-python venv_torch/bin/python`."
)


def run(parser, sides, argv=None):
    """Adds the common options to a parser, and runs the benchmark or one of its sides.

    Args:
        parser: an `ArgumentParser` with the options of the benchmark.
        sides: see `start`.
        argv: the command line, or None.
    """
    argv = sys.argv[1:] if argv is None else argv
    add_options(parser)
    start(parser.parse_args(argv), sides, argv)


def add_options(parser, batch_size=64):
    """Adds the common options, with the default of `--batch-size`."""
    parser.add_argument("--batch-size", type=positive, default=batch_size)
    parser.add_argument("--rounds", type=positive, default=7, help="number of rounds")
    parser.add_argument("--steps", type=positive, default=3, help="number of calls in a block")
    parser.add_argument(
        "--threads", type=positive, default=processors(), help="number of threads of each side"
    )
    parser.add_argument(
        "--torch-python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter with torch and diffusers; default: this one",
    )
    parser.add_argument(
        "--torch-layout",
        choices=("contiguous", "channels_last"),
        default="contiguous",
        help="memory layout of PyTorch's images: its default, or that of TensorFlow",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile PyTorch's side by torch.compile"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to a file")
    parser.add_argument("--worker", choices=("kgen", "torch"), help=argparse.SUPPRESS)


def start(args, sides, argv):
    """Runs the benchmark or one of its sides.

    Args:
        args: the parsed command line.
        sides: two functions of the arguments, "kgen" and "torch", which return the function to time
            and the number of parameters.
        argv: the command line.
    """
    if shutil.which(args.torch_python) is None:
        raise SystemExit(f"`--torch-python` must be an interpreter. Received: {args.torch_python}")
    if args.worker:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        serve(sides[args.worker], args)
    else:
        compare(args, [sys.argv[0], *argv])


def compiled(module, args):
    """Returns a module of PyTorch, compiled by inductor if the command line asks for it."""
    import torch

    return torch.compile(module) if args.compile else module


def set_threads(args):
    """Sets the number of threads of TensorFlow."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)


def serve(make, args):
    """Runs one side of a timing: each line of its input asks for a block of `--steps` steps."""

    def begin():
        step, parameters = make(args)
        for _ in range(WARM_UP):
            step()

        def block(line):
            start, busy = time.perf_counter(), time.process_time()
            for _ in range(args.steps):
                result = step()
            seconds = (time.perf_counter() - start) / args.steps
            busy = (time.process_time() - busy) / args.steps
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # of Linux, in KiB
            return {"seconds": seconds, "busy": busy, "result": result, "peak": peak}

        return block, parameters

    respond(begin)


def respond(begin):
    """Runs one side: answers each line of its input by a line of JSON.

    Args:
        begin: function that returns the function from a line to the answer, a dictionary, and the
            number of parameters, which is the first answer.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # separates the output of libraries from the results

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        reply, parameters = begin()
    except ImportError as error:
        answer(error=str(error))
        return
    answer(parameters=parameters)
    for line in sys.stdin:
        answer(**reply(line))


class Worker:
    """A process that runs one side and waits between its blocks.

    Args:
        side: "kgen" or "torch".
        interpreter: the Python that runs it.
        options: command line of the benchmark, its script first.
        threads: number of threads and of processors.
    """

    def __init__(self, side, interpreter, options, threads):
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_BACKEND": "tensorflow",
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        command = [interpreter, *options, "--worker", side]
        self.side = side
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            started = self._read()
            if side == "torch" and "error" in started:
                raise SystemExit(f"{INSTALL} Received: {started['error']}.")
            if "error" in started:
                raise SystemExit(
                    f"kgen's requirements must be installed. Received: {started['error']}."
                )
        except BaseException:
            self.close()
            raise
        self.parameters = started["parameters"]

    def time_block(self):
        """Returns seconds and processor seconds per step of a block; updates `peak`, in MiB."""
        answer = self.ask()
        self.peak = answer["peak"]
        return answer["seconds"], answer["busy"]

    def ask(self, line=""):
        """Returns the answer of the process to a line."""
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self._read()

    def close(self):
        """Ends the process."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The {self.side} process ended with code {self.process.wait()}.")
        return json.loads(line)


def compare(args, options):
    """Runs the rounds and prints the table."""
    with contextlib.ExitStack() as stack:
        sides = {}
        for side, interpreter in (("torch", args.torch_python), ("kgen", sys.executable)):
            sides[side] = Worker(side, interpreter, options, args.threads)
            stack.callback(sides[side].close)
        parameters = {side: worker.parameters for side, worker in sides.items()}
        if abs(parameters["kgen"] / parameters["torch"] - 1) > 1e-3:
            raise SystemExit(f"The two networks must be the same. Received: {parameters}.")
        times = {side: [] for side in sides}
        for i in range(args.rounds):
            for side in sorted(sides, reverse=i % 2 == 1):
                times[side].append(sides[side].time_block())
            print(
                f"round {i + 1}/{args.rounds}: kgen {times['kgen'][-1][0]:.3f} s a step, "
                f"torch {times['torch'][-1][0]:.3f}",
                file=sys.stderr,
            )
    print(", ".join(f"{k} {v}" for k, v in vars(args).items() if k not in HIDDEN))
    print(f"{'':8}{'parameters':>14}{'ms a step':>12}{'images/s':>12}{'peak MiB':>12}")
    for side in sorted(times):
        step = statistics.median(seconds for seconds, _ in times[side])
        print(
            f"{side:8}{parameters[side]:>14,}{1e3 * step:>12.1f}{args.batch_size / step:>12.1f}"
            f"{sides[side].peak:>12,.0f}"
        )
    # Processor time does not include other programs on the machine.
    found = {"peak": {side: worker.peak for side, worker in sides.items()}}
    for i, name in enumerate(("time", "processor time")):
        ratios = [a[i] / b[i] for a, b in zip(times["kgen"], times["torch"])]
        found[name] = {
            "median": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            **{f"{side} seconds": [block[i] for block in times[side]] for side in times},
        }
        print(
            f"{name} of kgen / {name} of torch, round by round: median "
            f"{found[name]['median']:.3f}, min {min(ratios):.3f}, max {max(ratios):.3f}"
        )
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(found, file)


def stored_rows(path, settings):
    """Returns the finished rows of a benchmark that can be continued, of the same settings."""
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["settings"] != settings:
        raise SystemExit(
            f"{path} holds rows of other settings. Received: {settings}, not {found['settings']}."
        )
    return found["rows"]


def store_rows(path, settings, rows):
    """Writes the finished rows of a benchmark."""
    path.write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))


def processors():
    """Returns the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def positive(text):
    """Converts an argument of the command line to a positive integer."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Received: {value}")
    return value

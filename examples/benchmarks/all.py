"""Time kgen beside PyTorch in every benchmark that has such a side, and write one table.

    python -m venv venv_torch && venv_torch/bin/pip install torch diffusers
    python examples/benchmarks/all.py --torch-python venv_torch/bin/python --output benchmarks.md

About 25 minutes on two cores, during which nothing else should run. Each row is a run of
`training_step.py`, `pixel_unet.py` or `vae_fit.py` in which the two sides take turns, in float32
and, where the processor computes in it, in bfloat16; PyTorch is in eager mode and compiled
(`torch.compile`). A figure is the time of kgen over that of PyTorch, median and range over the
rounds: below 1, kgen is faster. A row whose run fails says so, and the others follow.
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys
import tempfile

import turns

HERE = pathlib.Path(__file__).parent
ROWS = {  # what is timed: the command of its benchmark
    "training step, pixel U-Net, 28 x 28": ("pixel_unet.py", "train"),
    "trajectory of 20 evaluations, pixel U-Net": ("pixel_unet.py", "sample", "--steps", "1"),
    "training step, latent U-Net with text": ("training_step.py", "unet"),
    "training step, autoencoder": ("training_step.py", "autoencoder"),
}
COLUMNS = [
    (precision, compiled)
    for precision in ("float32", "bfloat16")
    for compiled in ((), ("--compile",))
]


def measure(command, python):
    """Runs a benchmark; returns its figures, or the last line of what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "figures.json"
        options = ["--torch-python", python, "--json", str(path)]
        script, *rest = command
        print(" ".join(command), flush=True)
        run = subprocess.run(
            [sys.executable, HERE / script, *rest, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        print(run.stdout, flush=True)
        if run.returncode:
            return (run.stdout.strip().splitlines() or ["no output"])[-1]
        return json.loads(path.read_text())


def cell(figures):
    """Returns a figure of the table: the median of a ratio and its range."""
    if isinstance(figures, str):
        return "failed"
    return f"{figures['median']:.2f} ({figures['min']:.2f} to {figures['max']:.2f})"


def machine(python):
    """Returns a line of the processor and the versions on both sides."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = [v for v in cpuinfo.read_text().splitlines() if v.startswith("model name")]
    name = names[0].partition(": ")[2] if names else platform.processor()
    modules = {sys.executable: ("tensorflow", "keras"), python: ("torch", "diffusers")}
    found = [f"{turns.processors()} threads of {name}"]
    for interpreter, packages in modules.items():
        code = (
            "from importlib.metadata import version\n"
            f"print(', '.join(f'{{p}} {{version(p)}}' for p in {packages}))"
        )
        found.append(subprocess.check_output([interpreter, "-c", code], text=True).strip())
    return "; ".join(found)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("benchmarks.md"))
    parser.add_argument("--rounds", type=turns.positive, default=5)
    parser.add_argument("--precision", nargs="+", default=["float32", "bfloat16"])
    args = parser.parse_args(argv)
    columns = [column for column in COLUMNS if column[0] in args.precision]
    titles = [f"{p}, {'compiled' if compiled else 'eager'}" for p, compiled in columns]
    lines = ["| time of kgen / PyTorch | " + " | ".join(titles) + " |"]
    lines += ["| --- " * (1 + len(titles)) + "|"]
    for name, command in ROWS.items():
        cells = []
        for precision, compiled in columns:
            options = ("--precision", precision, "--rounds", str(args.rounds), *compiled)
            figures = measure((*command, *options), args.torch_python)
            cells.append(cell(figures if isinstance(figures, str) else figures["time"]))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    figures = measure(("vae_fit.py", "--rounds", str(args.rounds)), args.torch_python)
    if isinstance(figures, str):
        figures = {"torch": figures, "compiled": figures}
    lines += ["", "| `fit` of the dense VAE, speed of kgen / PyTorch | eager | compiled |"]
    lines += ["| --- | --- | --- |"]
    lines += [f"| float32 | {cell(figures['torch'])} | {cell(figures['compiled'])} |"]
    text = "\n".join([machine(args.torch_python), "", *lines, ""])
    args.output.write_text(text)
    print(text)


if __name__ == "__main__":
    main()

"""kill -9 at random moments, again and again: the weights are those of a training left alone.

`KGEN_KILLS=20 pytest -n0 -m slow tests/test_kills.py` kills each training so many times.
"""

import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

HERE = pathlib.Path(__file__).parent
KILLS = int(os.environ.get("KGEN_KILLS", "3"))


def start(kind, folder):
    command = [sys.executable, str(HERE / "killed.py"), kind, str(folder)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def finish(kind, folder):
    folder.mkdir(exist_ok=True)
    with start(kind, folder) as running:
        output, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors[-2000:]
    with np.load(folder / "weights.npz") as weights:
        return list(weights.values()), output.count("step")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text_to_image", "vae"])
def test_killed_at_random_moments(kind, tmp_path):
    """After some steps, and a moment later: between steps, within one, or while saving."""
    whole, steps = finish(kind, tmp_path / "whole")
    folder, rng = tmp_path / "killed", np.random.default_rng(0)
    folder.mkdir()
    done = []
    for _ in range(KILLS):
        lines = 0
        with start(kind, folder) as running:
            for _ in range(rng.integers(1, max(2, 2 * steps // KILLS - 1))):
                lines += running.stdout.readline() == "step\n"
            time.sleep(rng.uniform(0, 0.05))
            running.kill()
        done.append(lines)
        if running.returncode == 0:
            break  # it was ready before
    killed, last = finish(kind, folder)
    print(kind, "steps of each life:", done, "and of the last:", last)
    assert len(done) == KILLS
    assert all(np.array_equal(v, w) for v, w in zip(whole, killed, strict=True))

"""Trainings that are ended at random moments, again and again, end as those left alone.

By kill -9, by SIGTERM and by Ctrl-C. `KGEN_KILLS=20 pytest -n0 -m slow -s tests/test_kills.py` ends
each training so many times.
"""

import multiprocessing
import os
import pathlib
import signal
import sys
import time

import numpy as np
import pytest

KILLS = int(os.environ.get("KGEN_KILLS", "3"))


@pytest.fixture(scope="module")
def processes():
    """Processes that have imported everything before they are started, and done nothing else."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killed"])
    yield context
    sys.path.pop(0)


class Life:
    """One process of a training."""

    def __init__(self, processes, kind, folder):
        import killed

        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.pipe, other = processes.Pipe(duplex=False)
        self.process = processes.Process(target=killed.main, args=(kind, folder, other))
        self.process.start()
        other.close()

    def wait_for(self, step):
        """Waits until that step is done, or the process has ended; returns the last one."""
        done = 0
        while done < step:
            try:
                done = self.pipe.recv()
            except EOFError:
                break
        return done

    def finish(self):
        """Lets the training come to its end; returns the weights."""
        self.wait_for(np.inf)
        self.process.join()
        assert self.process.exitcode == 0
        with np.load(self.folder / "weights.npz") as weights:
            return list(weights.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["text_to_image", "lora", "diffusion", "vae"])
@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 1)],
    ids=["kill", "SIGTERM", "Ctrl-C"],
)
def test_ended_at_random_moments(kind, number, status, processes, tmp_path):
    """A step or more later than the time before: between steps, within one, or while saving."""
    whole = Life(processes, kind, tmp_path / "whole").finish()
    rng, reached = np.random.default_rng(0), [0]
    for _ in range(KILLS):
        life = Life(processes, kind, tmp_path / "killed")
        reached.append(life.wait_for(reached[-1] + rng.integers(1, max(3, 56 // KILLS))))
        time.sleep(rng.uniform(0, 0.05))
        os.kill(life.process.pid, number)
        life.process.join()
        assert life.process.exitcode == status
    killed = Life(processes, kind, tmp_path / "killed").finish()
    print(kind, "was ended after the steps", reached[1:])
    assert np.all(np.diff(reached) > 0)
    assert all(np.array_equal(v, w) for v, w in zip(whole, killed, strict=True))

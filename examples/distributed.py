"""Train over several machines, or several processes on this one.

    python examples/distributed.py --workers 2 --output runs/distributed          # on this machine

starts local processes, which connect over the loopback device, and waits for them. On a cluster,
start this script once on each machine with `TF_CONFIG` in its environment (README,
"From one GPU to many machines") and without `--workers`:

    TF_CONFIG='{"cluster": {"worker": ["host1:2222", "host2:2222"]},
                "task": {"type": "worker", "index": 0}}' python examples/distributed.py

The model is a diffusion model of points in the plane; only the lines with `strategy` are for
distribution. `--batch-size` is the global batch size. If a worker is killed, the others end soon
after; with `--restarts N`, or when the same command is started again, all workers resume from the
last save, which must be in a shared directory. After SIGTERM to any worker, all of them save after
the same step and end.
"""

import argparse
import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import keras
import tensorflow as tf
from diffusion import spirals

import kgen
from kgen.callbacks import Resume
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP


def train(args):
    """Trains the model, on every worker."""
    strategy = kgen.distribution.strategy()  # before anything else of TensorFlow
    if args.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(args.seed)
    points = spirals(args.num_points)
    data = tf.data.Dataset.from_tensor_slices(points)
    data = data.shuffle(len(points), seed=args.seed).batch(args.batch_size, drop_remainder=True)
    # Each worker reads all of it and keeps its share: right for data that fit into memory. Files
    # are better split by file, `AutoShardPolicy.FILE`.
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = data.with_options(options)
    with strategy.scope():
        model = kgen.DiffusionModel(
            TimeMLP(2),
            GaussianDiffusion(CosineLogSNR(9.0, -9.0)),
            grey_levels=None,
            weighting="snr_plus_one",
            ema_decay=0.99,
            seed=args.seed,
        )
        model.compile(keras.optimizers.Adam(2e-3, global_clipnorm=1.0))
    args.output.mkdir(parents=True, exist_ok=True)
    chief = kgen.distribution.is_chief()
    model.fit(
        data,
        epochs=args.epochs,
        callbacks=[
            Resume(args.output / "resume", save_steps=args.save_steps),
            keras.callbacks.CSVLogger(args.output / "log.csv", append=True),  # of the chief alone
        ],
        verbose=2 if chief else 0,
    )
    weights = b"".join(variable.numpy().tobytes() for variable in model.weights)
    digest = hashlib.sha256(weights).hexdigest()
    print(f"weights of worker {_index()}: {digest}", flush=True)
    if chief:
        model.save_to_preset(args.output, dtype="float32")


def _index():
    return json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {}).get("index", 0)


def start_local(num, argv, restarts=0):
    """Starts local workers and waits for them; if one fails, ends the others and restarts all."""
    for left in range(restarts, -1, -1):
        status = _run_local(num, argv)
        if status in (0, 128 + signal.SIGTERM) or not left:
            return status
        print(f"a worker ended with status {status}; {left} restarts are left", flush=True)


def _run_local(num, argv):
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(num)]
    workers = []
    for index in range(num):
        config = {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": index},
        }
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        workers.append(subprocess.Popen([sys.executable, __file__, *argv], env=environment))
        print(f"worker {index} is process {workers[-1].pid}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: [worker.terminate() for worker in workers])
    try:
        while any(worker.poll() is None for worker in workers):
            failed = [w.returncode for w in workers if w.returncode not in (None, 0)]
            if failed:
                # After SIGTERM the others are saving.
                _wait(workers, 30 if failed[0] == 128 + signal.SIGTERM else 0)
                return failed[0]
            time.sleep(0.2)
        return max(abs(worker.returncode) for worker in workers)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _wait(workers, seconds):
    end = time.monotonic() + seconds
    while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
        time.sleep(0.2)


def _free_ports(num):
    sockets = [socket.socket() for _ in range(num)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, help="number of local processes to start")
    parser.add_argument(
        "--restarts",
        type=int,
        default=0,
        help="largest number of restarts of the local workers, if one fails",
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/distributed"))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--num-points", type=int, default=20_000)
    parser.add_argument(
        "--batch-size", type=int, default=500, help="global batch size, over all workers"
    )
    parser.add_argument(
        "--save-steps", type=int, default=20, help="number of steps between two saves"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--deterministic",
        action="store_true",
        help="make results equal bit for bit, which is slower",
    )
    args = parser.parse_args(argv)
    if args.workers is None:
        return train(args)
    options = {**vars(args), "workers": None, "restarts": None}
    argv = [
        f"--{name.replace('_', '-')}" + ("" if value is True else f"={value}")
        for name, value in options.items()
        if value is not None and value is not False
    ]
    return start_local(args.workers, argv, args.restarts)


if __name__ == "__main__":
    sys.exit(main())

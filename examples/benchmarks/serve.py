r"""Measure the server: first picture, throughput, latency, memory under load.

    python examples/benchmarks/serve.py --model text_to_image

starts `kgen serve` on this machine, asks it from threads, and prints

    opening     seconds from the start of the process until /ready
    first       seconds of the first picture after /ready, and of one when all is warm
    alone       pictures per second of one client that sends one request after the other
    together    the same for many clients at once; median and 95th percentile of latency, errors
    memory      resident megabytes before and after `--minutes` of that load

Requests are sent to this machine only.
"""

import argparse
import concurrent.futures
import json
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import numpy as np


def ask(url, seed, steps):
    """Requests one picture; returns the seconds until the response, or None for an error."""
    body = {"prompt": "a red heart", "seed": seed, "steps": steps}
    request = urllib.request.Request(
        f"{url}/v1/images/generations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    began = time.monotonic()
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            json.load(answer)
    except (urllib.error.URLError, ValueError):
        return None
    return time.monotonic() - began


def megabytes(url):
    """Returns the resident memory of the server in megabytes."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return float(re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)[1]) / 1e6


def together(url, clients, steps, requests=None, minutes=None):
    """Runs many clients at once; returns the total seconds and those of each request."""
    until = None if minutes is None else time.monotonic() + 60 * minutes
    numbers = iter(range(10**9 if requests is None else requests))
    lock, latencies = threading.Lock(), []

    def client():
        while until is None or time.monotonic() < until:
            with lock:
                seed = next(numbers, None)
            if seed is None:
                return
            latencies.append(ask(url, seed, steps))

    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        for task in [pool.submit(client) for _ in range(clients)]:
            task.result()
    return time.monotonic() - began, latencies


def measure(url, args):
    """Prints the figures of a server that is ready."""
    first = ask(url, 0, args.steps)
    warm = float(np.median([ask(url, 0, args.steps) for _ in range(args.alone)]))
    print(f"first      {first:.2f} s, warm {warm:.2f} s: {first / warm:.2f} x")
    began = time.monotonic()
    for seed in range(args.alone):
        ask(url, seed, args.steps)
    alone = args.alone / (time.monotonic() - began)
    print(f"alone      {alone:.2f} pictures a second")
    seconds, latencies = together(url, args.clients, args.steps, requests=args.requests)
    good = [value for value in latencies if value is not None]
    rate, (median, high) = len(good) / seconds, np.percentile(good, [50, 95])
    print(
        f"together   {rate:.2f} pictures a second of {args.requests} requests from {args.clients} "
        f"clients: {rate / alone:.2f} x; median {median:.2f} s, 95th percentile {high:.2f} s: "
        f"{high / median:.2f} x; {len(latencies) - len(good)} errors"
    )
    if args.minutes:
        before = megabytes(url)
        _, latencies = together(url, args.clients, args.steps, minutes=args.minutes)
        after = megabytes(url)
        print(
            f"memory     {before:.0f} MB, after {args.minutes:g} minutes and {len(latencies)} "
            f"requests {after:.0f} MB: {100 * (after / before - 1):+.1f} %; "
            f"{latencies.count(None)} errors"
        )


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="text_to_image")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--alone", type=int, default=8, help="number of requests of `alone`")
    parser.add_argument("--minutes", type=float, default=0.0, help="minutes of load for `memory`")
    args = parser.parse_args(argv)
    command = [sys.executable, "-m", "kgen", "serve", args.model, "--port", "0"]
    began = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            url = None
            for line in server.stderr:
                if " at http://" in line:
                    url = line.split(" at ")[1].strip()
                if line.strip() == "Ready":
                    break
            if url is None:
                raise SystemExit("The server has ended.")
            print(f"opening    {time.monotonic() - began:.1f} s")
            threading.Thread(target=server.stderr.read, daemon=True).start()
            measure(url, args)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()

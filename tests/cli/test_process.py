"""`kgen` as a process: help before TensorFlow loads, exit codes, Ctrl-C."""

import os
import signal
import subprocess
import sys
import time

import pytest

from kgen.cli.arguments import build_parser

KGEN = [sys.executable, "-m", "kgen"]
COMMANDS = (
    *("generate", "edit", "interpolate", "finetune", "train", "evaluate", "export", "info"),
    "serve",
)


def test_help_and_wrong_use_load_nothing_heavy():
    code = (
        "import sys; sys.argv = ['/usr/bin/kgen']; from kgen.cli.command import main;"
        f"codes = [main(['--help']), *[main([c, '--help']) for c in {COMMANDS}]];"
        "codes += [main(['generate', '--x'])];"
        "heavy = [m for m in ('tensorflow', 'keras', 'numpy', 'PIL') if m in sys.modules];"
        "print(codes, heavy, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    error, said = run.stderr.splitlines()
    assert said == f"{[0] * (1 + len(COMMANDS)) + [2]} []"
    assert error.startswith("kgen: error: unrecognized arguments: --x")
    assert all(command in run.stdout for command in COMMANDS)


def test_every_name_of_the_library_is_there_in_the_command_too():
    code = (
        "import sys; sys.argv = ['/usr/bin/kgen']; import kgen; assert 'keras' not in sys.modules;"
        "from kgen.cli.models import locate; print(kgen.VAE.__name__, kgen.data.folder.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["VAE", "kgen.data.folder"]


def test_a_module_of_the_library_can_be_the_first_that_the_command_imports():
    code = (
        "import sys; sys.argv = ['/usr/bin/kgen'];"
        "from kgen.serving.http.local import LocalModel; import kgen;"
        "print(LocalModel.__name__, kgen.VAE.__name__, kgen.likelihoods.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["LocalModel", "VAE", "kgen.likelihoods"]


@pytest.mark.slow
def test_help_takes_less_than_a_second_and_codes_are_those_of_a_process(tmp_path):
    times = []
    for _ in range(3):
        began = time.monotonic()
        run = subprocess.run([*KGEN, "generate", "--help"], capture_output=True, text=True)
        times.append(time.monotonic() - began)
        assert run.returncode == 0
        assert "--negative" in run.stdout
    assert min(times) < 1
    run = subprocess.run([*KGEN, "info", str(tmp_path / "none")], capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("after", ["Opening", "Drawing"])
def test_ctrl_c_ends_a_drawing_within_a_second(after, text_model, tmp_path):
    command = [*KGEN, "generate", "a red heart", "--model", str(text_model), "--count", "64"]
    command += ["--steps", "1000", "--output", str(tmp_path / "out")]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stderr:
            if line.startswith(after):
                break
        time.sleep(2)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert time.monotonic() - began < 1.5  # 0.6 are the command's, the rest the machine's
    assert not (tmp_path / "out").exists()


def test_sizes_are_height_by_width_or_a_square():
    made = build_parser().parse_args(["generate", "x", "--size", "64x96"])
    assert made.size == (64, 96)

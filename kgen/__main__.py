"""The command line of kgen as `python -m kgen`."""

from kgen.cli.command import run_process

if __name__ == "__main__":
    run_process()

"""`python -m kgen`: the command line of kgen."""

from kgen.cli.command import run_process

if __name__ == "__main__":
    run_process()

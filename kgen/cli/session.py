"""One run of the command: its progress messages, and how Ctrl-C ends it.

Results are printed to stdout and progress to stderr, so that a script can read the results alone.

Python runs signal handlers between two of its own instructions, which can take seconds while
TensorFlow compiles or loads. So a signal also wakes a thread (`signal.set_wakeup_fd`), which ends
the process if the main thread has not ended within `GRACE` seconds. This leaves no incomplete
output, since a file is written under a temporary name and then renamed. The thread does not end the
process within `Session.saving`.
"""

import contextlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any, Literal, TextIO, TypeAlias

GRACE = 0.6  # seconds in which the main thread may end by itself
INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT

Result: TypeAlias = tuple[dict[str, Any], list[str]]
"""What the `run` of a command returns: the result for `--json`, and the lines printed otherwise."""


class Session:
    """One run of the command.

    Args:
        quiet: whether to show errors only.
        stream: the stream of progress messages; None for stderr.
    """

    def __init__(self, quiet: bool = False, stream: TextIO | None = None) -> None:
        self.quiet = quiet
        self.stream = sys.stderr if stream is None else stream
        self._saving = False

    @property
    def verbose(self) -> Literal[0, 1, 2]:
        """Keras' `verbose`: 1 for a progress bar on a terminal, 2 for lines, 0 for no output."""
        if self.quiet:
            return 0
        return 1 if self.stream.isatty() else 2

    @property
    def progress_bar(self) -> Literal[0, 1]:
        """The argument `verbose` of `generate`: 1 for a progress bar on a terminal, else 0."""
        return 1 if self.verbose == 1 else 0

    def say(self, text: str) -> None:
        """Prints a progress message, unless the session is quiet."""
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Redirects stdout to stderr, and lets Ctrl-C end the process quickly, in this context."""
        before = warnings.formatwarning
        warnings.formatwarning = lambda message, *_, **__: f"kgen: {message}\n"
        shown = open(os.devnull, "w") if self.quiet else contextlib.nullcontext(self.stream)  # noqa: SIM115
        try:
            with shown as stream, contextlib.redirect_stdout(stream), self._watching_signals():
                yield
        finally:
            warnings.formatwarning = before

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Leaves Ctrl-C to the training that runs in this context, which saves its state first."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False

    @contextlib.contextmanager
    def _watching_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch_signals, args=(reader, ended), daemon=True)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            signal.set_wakeup_fd(before)
            os.close(writer)
            watcher.join()
            os.close(reader)

    def _watch_signals(self, reader: int, ended: threading.Event) -> None:
        """Ends the process if the main thread does not react to Ctrl-C.

        Args:
            reader: file descriptor from which the numbers of received signals are read.
            ended: set when the main thread has finished.
        """
        while signals := os.read(reader, 16):
            if signal.SIGINT in signals and not self._saving and not ended.wait(GRACE):
                os.write(2, b"\nInterrupted.\n")
                os._exit(INTERRUPTED)

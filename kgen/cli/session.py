"""A session of the command: what is said on stderr, and how Ctrl-C ends it.

Results go to stdout and all else to stderr, so that a script reads results alone. Python handles a
signal between two of its own instructions, which can be seconds away while TensorFlow compiles or
loads. So a thread is woken by the signal itself (`signal.set_wakeup_fd`); if the main thread has
not ended after `GRACE` seconds, the thread ends the process. Files are written beside their place
and moved to it, so none is left half written. While a training saves itself the thread waits.
"""

import contextlib
import os
import signal
import sys
import threading
import warnings

GRACE = 0.6  # seconds that the main thread has to end by itself
INTERRUPTED = 130  # exit code of what Ctrl-C ended: 128 + SIGINT


class Session:
    """One run of the command.

    Args:
        quiet: whether to say nothing but errors.
        stream: where progress is shown; None for stderr.
    """

    def __init__(self, quiet=False, stream=None):
        self.quiet = quiet
        self.stream = sys.stderr if stream is None else stream
        self._saves = False

    @property
    def verbose(self):
        """What Keras calls `verbose`: 1 for a bar on a terminal, 2 for lines, 0 for silence."""
        if self.quiet:
            return 0
        return 1 if self.stream.isatty() else 2

    @property
    def bar(self):
        """1 to show a bar of the steps of a drawing, on a terminal, or 0."""
        return int(self.verbose == 1)

    def say(self, text):
        """Tells a person how the work goes on."""
        if not self.quiet:
            print(text, file=self.stream, flush=True)

    @contextlib.contextmanager
    def working(self):
        """Within it, what libraries print goes to stderr, and Ctrl-C ends the process soon."""
        before = warnings.formatwarning
        warnings.formatwarning = lambda message, *_, **__: f"kgen: {message}\n"
        shown = open(os.devnull, "w") if self.quiet else contextlib.nullcontext(self.stream)  # noqa: SIM115
        try:
            with shown as stream, contextlib.redirect_stdout(stream), self._watched():
                yield
        finally:
            warnings.formatwarning = before

    @contextlib.contextmanager
    def saving(self):
        """Within it, Ctrl-C is left to who saves a training first."""
        self._saves = True
        try:
            yield
        finally:
            self._saves = False

    @contextlib.contextmanager
    def _watched(self):
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(reader, ended), daemon=True)
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

    def _watch(self, reader, ended):
        while signals := os.read(reader, 16):
            if signal.SIGINT in signals and not self._saves and not ended.wait(GRACE):
                os.write(2, b"\nInterrupted.\n")
                os._exit(INTERRUPTED)

"""A watch over a call: no process, no socket, no file outside of a folder, little memory and time.

Python tells an audit hook of what it opens and starts. A hook cannot be taken away, so this one is
set once and does nothing unless a watch is on.
"""

import contextlib
import os
import pathlib
import sys
import sysconfig
import tempfile
import threading
import time

FORBIDDEN = ("os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.", "socket.")
FORBIDDEN += (
    "subprocess.",
    "shutil.",
    "urllib.",
    "http.",
    "ftplib.",
    "webbrowser.",
    "ctypes.dlopen",
)
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
# What Python itself reads when it imports a module, and the system's own description.
READ = [sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")]
READ += ["/proc", "/sys", "/dev", "/usr", "/lib", "/etc/localtime", "/etc/mime.types"]
READ += [str(pathlib.Path(__file__).parents[1] / "kgen")]
_WATCHES = []


class Watch:
    """What happened during a watch: `events`, the forbidden ones; `seconds` and `megabytes`."""

    def __init__(self, folder):
        self.folder = os.path.realpath(folder)
        self.thread = threading.get_ident()
        self.events, self.seconds, self.megabytes = [], 0.0, 0.0

    def see(self, event, arguments):
        if event.startswith(FORBIDDEN):
            self.events.append((event, arguments))
            raise PermissionError(f"{event} is forbidden here")
        if event == "open" or event.startswith(CHANGES):
            path = arguments[0]
            if isinstance(path, int) or path is None:
                return
            path = os.path.realpath(os.fsdecode(path))
            changes = event != "open" or "w" in str(arguments[1])
            roots = [self.folder, tempfile.gettempdir() + "/tmp"] + ([] if changes else READ)
            if not any(path == root or path.startswith(root.rstrip("/")) for root in roots):
                self.events.append((event, arguments))
                raise PermissionError(f"{path} is outside of {self.folder}")


def _hook(event, arguments):
    for watch in _WATCHES:
        watch.see(event, arguments)


sys.addaudithook(_hook)


@contextlib.contextmanager
def watched(folder):
    """Watches what runs inside of it."""
    watch = Watch(folder)
    memory = pathlib.Path("/proc/self/status")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the highest memory so far is forgotten
    before, start = _megabytes(memory, "VmRSS"), time.process_time()
    _WATCHES.append(watch)
    try:
        yield watch
    finally:
        _WATCHES.remove(watch)
        watch.seconds = time.process_time() - start
        watch.megabytes = _megabytes(memory, "VmHWM") - before


def _megabytes(path, key):
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024

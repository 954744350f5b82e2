"""Running the scripts of bin/ as cron would, and looking at what they said."""

import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.support import preloaded

#: The checkout that is tested.
TOP = Path(__file__).resolve().parents[2]

#: What cron sets for a job (crontab(5)), as far as our scripts may notice it.
CRON_ENVIRONMENT = {
    "HOME": "/",
    "LOGNAME": "root",
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "SHELL": "/bin/sh",
}

#: What begins a command that somebody without any rights is to run, where the tests are root's.
SOMEBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all", "--bounding-set=-all"),
)


class Ran(NamedTuple):
    """How a script ended and what it printed."""

    code: int
    out: str
    err: str


@functools.cache
def somebody_starts_python() -> bool:
    """Return whether a script that runs as somebody else may start this Python, as plugins need."""
    again = "import os, sys; os.execv(sys.executable, [sys.executable, '-c', ''])"
    command = [*SOMEBODY, sys.executable, "-c", again]
    if os.geteuid() != 0:
        return True
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def run_script(
    name: str,
    *arguments: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
    timeout: float = 120,
    unprivileged: bool = False,
    cwd: Path | None = None,
) -> Ran:
    """Run a script of bin/ with this Python, without a terminal, to its end.

    Parameters
    ----------
    name : `str`
        Such as ``dbb-handoff``.
    *arguments : `str` or path-like
        What follows it on the command line.
    env : mapping, optional
        Added to this process's environment.
    stdin : `bytes`, optional
        What it reads; nothing by default.
    timeout : `float`
        Seconds after which it is ended and the test fails.
    unprivileged : `bool`
        Where the tests are run by root, run it as somebody without any rights.
    cwd : `pathlib.Path`, optional
        Where it is started; here by default.
    """
    somebody = SOMEBODY if unprivileged and os.geteuid() == 0 else ()
    command = [*somebody, sys.executable, TOP / "bin" / name, *arguments]
    environment = {**os.environ, **(env or {})}
    if not somebody and preloaded.may_fork(environment):
        code, out, err = preloaded.run(command, environment, cwd or "", stdin or b"", timeout)
    else:
        finished = subprocess.run(
            command,
            env=environment,
            input=stdin or b"",
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
            check=False,
        )
        code, out, err = finished.returncode, finished.stdout, finished.stderr
    return Ran(code, out.decode(errors="replace"), err.decode(errors="replace"))

"""A PgBouncer before the tests' PostgreSQL."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbbbatch.files.lock import POLL
from tests.support.postgres import Postgres


def missing() -> str:
    """Return what is missing to run one; '' if nothing."""
    if shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
        return "pgbouncer is not installed"
    return ""


@contextmanager
def pgbouncer(postgres: Postgres, name: str, mode: str) -> Iterator[str]:
    """Run one for a database, in a pool mode, and give the database's URL through it.

    It has two connections to the server: fewer than passes that use it.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    assert program
    directory = Path(tempfile.mkdtemp(prefix="dbb-pgb-"))
    directory.chmod(0o777)
    (directory / "pgbouncer.ini").write_text(
        f"[databases]\n{name} = host={postgres.socket} dbname={name} user=postgres\n"
        "[pgbouncer]\nlisten_addr =\nlisten_port = 6432\nauth_type = any\ndefault_pool_size = 2\n"
        f"unix_socket_dir = {directory}\npool_mode = {mode}\nlogfile = {directory}/log\n"
    )
    somebody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    process = subprocess.Popen(
        [*(somebody if os.geteuid() == 0 else []), program, "-q", directory / "pgbouncer.ini"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _answers(directory / ".s.PGSQL.6432"):
            assert process.poll() is None, (directory / "log").read_text()
            try:
                process.wait(POLL)
            except subprocess.TimeoutExpired:
                continue
        yield f"postgresql://postgres@/{name}?host={directory}&port=6432"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(path))
        except OSError:
            return False
    return True

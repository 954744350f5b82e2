"""An SSH server for machines without sshd: runs commands by /bin/sh, and serves SFTP.

Started by `tests.support.ssh` as ``asyncssh_server.py DIRECTORY PORT``.
"""

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncssh


class Server(asyncssh.SSHServer):
    """Says who logged in, in sshd's words."""

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def auth_completed(self) -> None:
        user = self._connection.get_extra_info("username")
        print(f"Accepted publickey for {user}", file=sys.stderr, flush=True)


class Files(asyncssh.SFTPServer):
    """Ends as OpenSSH's does: scp takes a session without an exit code for a failure."""

    def exit(self) -> None:
        self.channel.exit(0)


async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
    """Run one command, its streams joined to the session's."""
    child = await asyncio.create_subprocess_exec(
        "/bin/sh",
        *(["-c", process.command] if process.command else []),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
    code = await child.wait()
    await process.stdout.drain()
    process.exit(code if code >= 0 else 128 - code)


async def main(directory: Path, port: int) -> None:
    """Serve until killed."""
    await asyncssh.listen(
        "127.0.0.1",
        port,
        server_factory=Server,
        server_host_keys=[str(directory / "host_key")],
        authorized_client_keys=str(directory / "authorized_keys"),
        process_factory=run,
        sftp_factory=Files,
        encoding=None,
    )
    await asyncio.Event().wait()


asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))

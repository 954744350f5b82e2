"""Scripts that run in forks of a process that has imported what they need, under a supervisor.

A sweep makes thousands of them (`tests.support.preloaded`).
"""

from __future__ import annotations

import atexit
import mmap
import os
import socket
from collections.abc import Mapping
from functools import cache, partial
from typing import Any

from tests.killing import phases, supervisor
from tests.support import preloaded
from tests.support.preloaded import Server, is_script

__all__ = ["Preloaded", "is_script", "shared"]


class Preloaded(Server):
    """The process; a context manager that ends it."""

    def __init__(self) -> None:
        super().__init__(__name__)

    def serve(self, request: Mapping[str, Any]) -> None:
        """Serve a request of `supervisor.supervise` by a fork."""
        trouble = b""
        with self.ask(request) as connection:
            while part := connection.recv(4096):
                trouble += part
        if trouble:
            raise RuntimeError(f"the supervisor failed: {trouble.decode(errors='replace')}")


@cache
def shared() -> Preloaded:
    """Return the one of all tests: to start it costs as much as ten passes."""
    server = Preloaded()
    server.__enter__()
    atexit.register(server.__exit__)
    return server


def _serve(connection: socket.socket, request: dict[str, Any], descriptors: list[int]) -> None:
    """Be the supervisor of one request."""
    phase = phases.shared()
    supervisor.serve(request, partial(_become_script, phase), partial(phases.read, phase))


def _become_script(phase: mmap.mmap, request: dict[str, Any]) -> None:
    os.closerange(3, 256)
    phases.watch(phase)
    preloaded.become_script(request["command"], request["env"])


if __name__ == "__main__":
    preloaded.preload()
    phases.collect()
    preloaded.serve_forks(_serve)

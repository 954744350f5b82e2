"""A line of loopback that somebody can cut, or hold up."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

_BLOCK = 1 << 16


class Relay:
    """Carries connections to a port of this machine, from a thread of its own.

    Parameters
    ----------
    port : `int`
        Where what it carries goes, on 127.0.0.1.

    Attributes
    ----------
    port : `int`
        Where it listens.
    """

    def __init__(self, port: int) -> None:
        self._to = port
        self._loop = asyncio.new_event_loop()
        self._open: set[asyncio.StreamWriter] = set()
        self._refuses = False
        ready = threading.Event()
        threading.Thread(target=self._run, args=(ready,), daemon=True).start()
        ready.wait()

    def drop(self) -> None:
        """Break all connections."""
        self._loop.call_soon_threadsafe(self._drop)

    def refuse(self, refuses: bool) -> None:
        """Break all connections, and each new one, until it is called with False."""
        self._refuses = refuses
        self.drop()

    def hang(self, hangs: bool) -> None:
        """Carry nothing, and close nothing, until it is called with False."""
        change = self._flows.clear if hangs else self._flows.set
        self._loop.call_soon_threadsafe(change)

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._flows = asyncio.Event()
        self._flows.set()
        server = self._loop.run_until_complete(
            asyncio.start_server(self._carry, "127.0.0.1", limit=_BLOCK)
        )
        self.port: int = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()

    def _drop(self) -> None:
        for writer in list(self._open):
            writer.transport.abort()

    async def _carry(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        writers = [to_near]
        self._open.add(to_near)
        try:
            await self._flows.wait()
            if self._refuses:
                raise ConnectionError
            far, to_far = await asyncio.open_connection("127.0.0.1", self._to, limit=_BLOCK)
            writers.append(to_far)
            self._open.add(to_far)
            await asyncio.gather(self._pump(near, to_far), self._pump(far, to_near))
        except OSError:
            for writer in writers:
                writer.transport.abort()
        finally:
            for writer in writers:
                self._open.discard(writer)
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK):
            await self._flows.wait()
            writer.write(block)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()

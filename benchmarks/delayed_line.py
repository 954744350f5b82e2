"""A line of loopback that delays what passes it, in each direction, and loses nothing.

Run as `python delayed_line.py PORT DELAY`: it prints the port that it listens on, takes each
connection to PORT on 127.0.0.1, and ends when it is killed. As with a real line, a connection
stands after a round trip, and as many bytes are under way as the two ends allow (at most
`UNDER_WAY` in each direction of a connection). The ends see no windows of TCP that open slowly:
each has its peer at once, so that what a real line adds to that is missing.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque

BLOCK = 1 << 18
UNDER_WAY = 64 << 20


class Direction:
    """What is under way from one end to the other: blocks, with the time at which each arrives."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._blocks: deque[tuple[float, bytes]] = deque()
        self._size = 0
        self._changed = asyncio.Condition()

    async def receive(self, reader: asyncio.StreamReader) -> None:
        """Take what one end sends, to its end."""
        loop = asyncio.get_running_loop()
        block = b"."
        while block:
            block = await read(reader)
            async with self._changed:
                await self._changed.wait_for(lambda: self._size < UNDER_WAY)
                self._blocks.append((loop.time() + self._delay, block))
                self._size += len(block)
                self._changed.notify_all()

    async def deliver(self, writer: asyncio.StreamWriter) -> None:
        """Give it to the other end when it is due, and the end of it, too."""
        loop = asyncio.get_running_loop()
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._blocks)
                due, block = self._blocks.popleft()
                self._size -= len(block)
                self._changed.notify_all()
            if (left := due - loop.time()) > 0:
                await asyncio.sleep(left)
            if not block:
                if writer.can_write_eof():
                    writer.write_eof()
                return
            writer.write(block)
            await writer.drain()


async def read(reader: asyncio.StreamReader) -> bytes:
    """Return what has arrived; nothing if the end broke off."""
    try:
        return await reader.read(BLOCK)
    except ConnectionError:
        return b""


async def carry(
    near: asyncio.StreamReader, to_near: asyncio.StreamWriter, port: int, delay: float
) -> None:
    """Carry one connection."""
    there, back = Direction(delay), Direction(delay)
    writers = [to_near]
    try:
        # Where one end breaks off, the other is to notice: all four end together.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(there.receive(near))
            # The three messages of a handshake go before what a client says first.
            await asyncio.sleep(3 * delay)
            far, to_far = await asyncio.open_connection("127.0.0.1", port, limit=BLOCK)
            writers.append(to_far)
            tasks.create_task(there.deliver(to_far))
            tasks.create_task(back.receive(far))
            tasks.create_task(back.deliver(to_near))
    except* OSError:
        to_near.transport.abort()
    finally:
        for writer in writers:
            writer.close()


async def main(port: int, delay: float) -> None:
    """Listen, and carry."""
    server = await asyncio.start_server(
        lambda near, to_near: carry(near, to_near, port, delay), "127.0.0.1", limit=BLOCK
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    main_port, main_delay = sys.argv[1:]
    asyncio.run(main(int(main_port), float(main_delay)))

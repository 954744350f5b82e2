"""Doing the same for many files by several threads, in their order and in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol, TypeVar

#: Small files are handed to a thread some at a time, so that there is little to say about each.
_HANDFUL = 32
_HANDFUL_BYTES = 8 << 20

#: Mean size in bytes from which a second thread hashes more than it costs.
_LARGE = 1 << 20


class Sized(Protocol):
    """Something that tells how many bytes it has."""

    @property
    def size_bytes(self) -> int:
        """Its size."""
        ...


SizedFile = TypeVar("SizedFile", bound=Sized)
Computed = TypeVar("Computed")


def map_in_order(
    function: Callable[[SizedFile], Computed], files: Sequence[SizedFile], jobs: int
) -> Iterator[Computed]:
    """Yield a function's results for files, in their order, computed by so many threads."""
    if jobs == 1 or len(files) == 1:
        yield from map(function, files)
        return
    from concurrent.futures import ThreadPoolExecutor

    def several(some: Sequence[SizedFile]) -> list[Computed]:
        return [function(file) for file in some]

    with ThreadPoolExecutor(jobs) as pool:
        yield from chain.from_iterable(pool.map(several, _handfuls(files)))


def useful_threads(files: Sequence[Sized], jobs: int) -> int:
    """Return how many threads, at most `jobs`, are to hash: small files' would wait in turn."""
    return jobs if sum(file.size_bytes for file in files) >= _LARGE * len(files) else 1


def _handfuls(files: Sequence[SizedFile]) -> Iterable[Sequence[SizedFile]]:
    start = size = 0
    for end, file in enumerate(files, 1):
        size += file.size_bytes
        if end - start == _HANDFUL or size >= _HANDFUL_BYTES:
            yield files[start:end]
            start, size = end, 0
    if start < len(files):
        yield files[start:]

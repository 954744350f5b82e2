"""Do the same for many files in several threads, in their order and with little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Protocol, TypeVar

#: A thread gets some files at a time: to hand over each small file would cost more than to read it.
_HANDFUL = 32
_HANDFUL_BYTES = 8 << 20

#: Mean size in bytes from which a second thread hashes more than it costs.
_LARGE = 1 << 20


class Sized(Protocol):
    """Something with a size."""

    @property
    def size_bytes(self) -> int:
        """The size (bytes)."""


SizedFile = TypeVar("SizedFile", bound=Sized)
Computed = TypeVar("Computed")


def map_in_order(
    function: Callable[[SizedFile], Computed], files: Sequence[SizedFile], jobs: int
) -> Iterator[Computed]:
    """Yield the results of a function for files, in their order, computed by `jobs` threads."""
    if jobs == 1 or len(files) == 1:
        yield from map(function, files)
        return
    from concurrent.futures import ThreadPoolExecutor

    def several(some: Sequence[SizedFile]) -> list[Computed]:
        return [function(file) for file in some]

    with ThreadPoolExecutor(jobs) as pool:
        yield from chain.from_iterable(pool.map(several, _handfuls(files)))


def useful_threads(files: Sequence[Sized], jobs: int) -> int:
    """Return how many threads, at most `jobs`, hash files faster than one: small files need one."""
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

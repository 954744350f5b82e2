"""Many things, some at a time: memory and transactions stay small."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from dbbbatch.files.parallel import SizedFile

Element = TypeVar("Element")


def batched(items: Iterable[Element], size: int) -> Iterator[list[Element]]:
    """Yield items in lists of `size`; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


def batched_by_size(
    files: Iterable[SizedFile], most: int, most_bytes: int
) -> Iterator[list[SizedFile]]:
    """Yield files in lists of at most `most`, each ended by the file that makes it large enough."""
    batch: list[SizedFile] = []
    size = 0
    for file in files:
        batch.append(file)
        size += file.size_bytes
        if len(batch) >= most or size >= most_bytes:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

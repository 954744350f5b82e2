"""Many things, some at a time: memory and transactions stay small."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Element = TypeVar("Element")


def batched(items: Iterable[Element], size: int) -> Iterator[list[Element]]:
    """Yield items in lists of `size`; the last one may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch

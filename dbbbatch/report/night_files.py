"""The files of many nights, kept while all of them are read once.

They are compressed in memory, to a tenth: a disk that is full keeps no page from being written.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Mapping
from datetime import date

from dbbbatch.report.nights import Night, NightFile

#: Files compressed at a time.
_COMPRESSED_TOGETHER = 500


class NightFiles:
    """Keeps files by night: `add` is for `dbbbatch.report.night_rows.nights`, `of` for pages."""

    def __init__(self) -> None:
        self._packed: dict[date, list[bytes]] = {}
        self._loose: dict[date, list[NightFile]] = {}

    def add(self, day: date, file: NightFile) -> None:
        """Keep a file of a night."""
        loose = self._loose.setdefault(day, [])
        loose.append(file)
        if len(loose) == _COMPRESSED_TOGETHER:
            self._packed.setdefault(day, []).append(_packed(loose))
            loose.clear()

    def of(self, night: Night) -> Iterator[NightFile]:
        """Yield the files of a night, as they were read."""
        for packed in self._packed.get(night.day, ()):
            yield from _unpacked(packed)
        yield from self._loose.get(night.day, ())


def _packed(files: list[NightFile]) -> bytes:
    # No name holds a NUL.
    fields = (
        f"{path}\0{size}\0{where}\0{' '.join([word for pair in targets.items() for word in pair])}"
        for path, size, where, targets in files
    )
    return zlib.compress("\0".join(fields).encode(), 1)


def _unpacked(packed: bytes) -> Iterator[NightFile]:
    fields = iter(zlib.decompress(packed).decode().split("\0"))
    for path, size, where, ingests in zip(fields, fields, fields, fields, strict=True):
        yield NightFile(path, int(size), where, _read_targets(ingests))


@functools.lru_cache
def _read_targets(ingests: str) -> Mapping[str, str]:
    words = iter(ingests.split())
    return dict(zip(words, words, strict=True))

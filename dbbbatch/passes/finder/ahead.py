"""Copies that workers make of a finder's files, across file systems, ahead of the pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dbbbatch.areas.storage.incoming import Fate, Incoming
from dbbbatch.areas.storage.mounted import StorageArea
from dbbbatch.files import checksum
from dbbbatch.files.unit import CopyOrder, FileRead, Journal, SharedRoot, UnitFile
from dbbbatch.passes.engine import Engine


class CopiesAhead:
    """The copies of one pass.

    Parameters
    ----------
    area : `StorageArea`
    engine : `dbbbatch.passes.engine.Engine`
    """

    def __init__(self, area: StorageArea, engine: Engine) -> None:
        self._area = area
        self._engine = engine
        self._journal = Journal(area.storage, area.owner)

    def sweep(self) -> None:
        """Remove copies that no pass took, as `Journal.sweep`."""
        self._journal.sweep()

    def copied(self, files: Sequence[Incoming]) -> Iterator[Incoming]:
        """Yield files that are to be copied; those that workers copied are ready to be placed."""
        area = self._area
        roots = (
            SharedRoot.of(area.source),
            SharedRoot.of(area.storage, area.section.sentinel),
        )
        wanted = [UnitFile(each.rel, each.size_bytes, area.algorithms) for each in files]

        def order() -> CopyOrder:
            relpaths = {each.destination.relpath for each in files}
            return self._journal.order(relpaths, area.section.file_mode, area.group)

        reads = self._engine.read(roots, wanted, order)
        for file, read in zip(files, reads, strict=True):
            yield self._taken(file, read) if read is not None and read.copy else file

    def _taken(self, file: Incoming, read: FileRead) -> Incoming:
        try:
            status = self._journal.take(file.source, read, file.destination, self._area.owner)
        except (checksum.Changed, FileNotFoundError) as error:
            if isinstance(error, checksum.Changed) or error.filename == file.source.path:
                return file
            self._engine.distrust(f"{error.filename}: a copy of a worker is not to be seen here")
            return file
        except OSError as error:
            self._engine.distrust(f"{error.filename}: {error.strerror}")
            return file
        return file._replace(sums=read.sums, status=status, copied=True).decided(Fate.ARRIVES)

"""What a handoff finds in its buffer, in the order in which it will go."""

from __future__ import annotations

import os
from collections.abc import Iterator

from dbbbatch.config.sections import Handoff
from dbbbatch.database.models.handoff import HandoffRow
from dbbbatch.files import names, scan
from dbbbatch.files.batches import batched
from dbbbatch.files.identity import Version
from dbbbatch.files.tree import Tree
from dbbbatch.passes.context import PassContext

#: Files recorded in one transaction while scanning.
CHUNK = 5000


def scanned(context: PassContext, section: Handoff, tree: Tree) -> Iterator[list[HandoffRow]]:
    """Scan a buffer, in chunks of files that --match lets through."""

    def odd(rel: str, what: str) -> None:
        shown = names.printable(os.path.join(section.buffer, rel))
        context.warn(f"{shown}: {what}; it is left there", key="odd", of=rel)

    newest_first = section.order == "newest"

    def seen(found: scan.Found) -> HandoffRow:
        return HandoffRow(
            *names.name_of(found.rel),
            *Version.of_row(found),
            priority(section, found.rel),
            -found.mtime_ns if newest_first else found.mtime_ns,
        )

    found = scan.scan(tree, section.exclude, section.settle, odd=odd)
    yield from batched((seen(each) for each in found if context.matches(each.rel)), CHUNK)


def priority(section: Handoff, rel: str) -> int:
    """Return the number of the first pattern that is found in a relative path."""
    for number, pattern in enumerate(section.priority):
        if pattern.search(rel):
            return number
    return len(section.priority)

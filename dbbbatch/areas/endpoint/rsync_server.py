"""rsync at the far end of a handoff, for a key that may do nothing else: only into an attempt.

The options that a client's rsync asks for are compared with a list of harmless ones. rsync then
runs behind a wall of the kernel: whatever its protocol is used for, it writes nowhere but below the
attempt's directory and that of partial files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from dbbbatch.config.sections import Receive
from dbbbatch.errors import ConfigError, UsageError
from dbbbatch.files.tree import Tree
from dbbbatch.process import landlock, run

#: Where rsync may leave partial files: beside the attempts, under a name that none of them has.
PARTIALS = re.compile(r"\.?[A-Za-z0-9_-]*partial")

#: Letters without a value, and what the client's rsync can do (-e.…). Not among them are those that
#: keep or follow links (K, k, L), that read arguments from the client (s), or make backups (b).
_LETTERS = re.compile(r"-[cdDgHIJlmNoOpqrRStuUvWxyz]*(e[0-9]*\.[A-Za-z]*)?")

_WORDS = re.compile(
    r"--(partial|inplace|no-implied-dirs|no-r|no-R|numeric-ids|whole-file|no-W|stats|fsync|"
    r"preallocate|ignore-times|size-only|old-compress|new-compress|no-compress|"
    r"(timeout|bwlimit|compress-level|block-size|checksum-seed|modify-window)=[0-9.]+[KMGkmg]?|"
    r"(checksum-choice|compress-choice|info|debug|log-format)=[A-Za-z0-9,%_-]*)"
)


class RsyncCall(NamedTuple):
    """What a client's rsync asks for.

    Attributes
    ----------
    argv : `list` [ `str` ]
    attempt : `str`
        The name of the attempt that it sends to.
    partials : `str`
        The name of the directory of partial files in staging; '' if it needs none.
    """

    argv: list[str]
    attempt: str
    partials: str


def parse_call(words: Sequence[str], staging: str) -> RsyncCall:
    """Return what a client asks for; raise `UsageError` with the reason why it must not be done.

    Parameters
    ----------
    words : `~collections.abc.Sequence` [ `str` ]
        The command, from ``rsync --server`` on.
    staging : `str`
        The staging area.
    """
    *options, dot, dest = words[2:] if len(words) > 3 else ("", "", "")
    found = re.fullmatch(
        rf"{re.escape(staging)}/([A-Za-z0-9_-][A-Za-z0-9._-]*)/(?:t|[0-9]+)/*", dest
    )
    if dot != "." or not found:
        raise UsageError(f"rsync: it may only send to {staging}/ATTEMPT/t/")
    partials, values = "", iter(options)
    for option in values:
        name, equals, value = option.partition("=")
        if name == "--partial-dir":
            value = value if equals else next(values, "")
            above, _, partials = value.rpartition("/")
            if above not in ("", staging) or not PARTIALS.fullmatch(partials):
                raise UsageError(f"rsync: --partial-dir must be {staging}/…partial, not {value}")
            partials = partials if above else ""
        elif not _LETTERS.fullmatch(option) and not _WORDS.fullmatch(option):
            raise UsageError(f"rsync: the option {option} is not allowed here")
    return RsyncCall(list(words), found[1], partials)


def serve_rsync(section: Receive, words: Sequence[str]) -> NoReturn:
    """Become the rsync that a client asks for, where it can do no harm.

    Raises
    ------
    UsageError
        It asks for something else than to send files to an attempt.
    ConfigError
        This kernel cannot confine it.
    """
    if section.transfer != "rsync":
        raise UsageError(f"[{section.label}] transfer: this key may not use rsync")
    call = parse_call(words, section.staging)
    if not landlock.abi():
        raise ConfigError(
            f"[{section.label}] transfer: this kernel has no landlock, which confines rsync: give "
            'rsync a key of its own with rrsync, and set transfer = "none"'
        )
    staging = Tree(section.staging)
    writable = [staging.directory(f"{call.attempt}/t").fd]
    if call.partials:
        with suppress(FileExistsError):
            staging.make_directory(call.partials, 0o700)
        writable.append(staging.directory(call.partials).fd)
    landlock.restrict_writing(writable)
    run.become(call.argv)

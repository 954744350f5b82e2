"""Does the world agree with the configuration? Asked by ``dbb config check``, never by a pass.

Whatever a pass would trip over at night is tried here by day, as the user that will run it.
"""

import grp
import logging
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass

from dbbbatch.areas.storage.mounted import needs_copy, overlap_of
from dbbbatch.config import fields
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import Finder, Handoff, Site, Target
from dbbbatch.errors import DbbError, TryLater, user
from dbbbatch.files import mounts, names, place
from dbbbatch.files.state import must_own

logger = logging.getLogger("dbbbatch")


@dataclass(frozen=True)
class Checked:
    """One thing that was looked at.

    Attributes
    ----------
    where : `str`
        Section and key.
    what : `str`
        What was asked.
    problem : `str`
        What is wrong and what to do; '' if all is well.
    remark : `str`
        What may be meant, or not: no problem.
    later : `bool`
        The problem may be over by itself.
    """

    where: str
    what: str
    problem: str = ""
    remark: str = ""
    later: bool = False


def check_everything(settings: Settings) -> Iterator[Checked]:
    """Look at everything that the configuration names; nothing is left behind.

    Yields
    ------
    checked : `Checked`
        In the order of the file.
    """
    yield from (found := list(_state(settings)))
    if found[0].problem:
        # What another user may do tells nothing of a pass, and would leave files of that user.
        return
    yield from _check_database(settings)
    for handoff in settings.handoff.values():
        yield from _check_handoff(handoff, settings.site)
    for finder in settings.finder.values():
        yield from _check_finder(finder)
    for target in settings.target.values():
        yield from _check_target(target, settings)


def file_system(path: str, mountinfo: str = "/proc/self/mountinfo") -> str:
    """Return the type of the file system that holds a path; '' if the kernel does not say."""
    best, kind = b"", b""
    raw = os.fsencode(os.path.realpath(path))
    try:
        with open(mountinfo, "rb") as lines:
            for line in lines:
                before, _, after = line.partition(b" - ")
                point = mounts.mount_point(before)
                inside = raw == point or raw.startswith(point.rstrip(b"/") + b"/")
                if inside and len(point) >= len(best):
                    best, kind = point, after.split(b" ")[0]
    except OSError:
        return ""
    return os.fsdecode(kind)


def _state(settings: Settings) -> Iterator[Checked]:
    state, where = settings.site.state, "[site] state"
    yield _owner(where, settings)
    yield _directory(where, state, "run `dbb init` as the user that runs the scripts")
    yield from _memory(where, state)
    yield _local(where, state, "locks do not work there; name a directory of this host")


def _owner(where: str, settings: Settings) -> Checked:
    state, problem = settings.site.state, ""
    try:
        must_own(state, str(settings.path))
        if os.path.isdir(state) and os.stat(state).st_mode & 0o022:
            problem = f"{state}: others can write in it: chmod 700 {state}"
    except DbbError as error:
        problem = str(error)
    return Checked(where, f"{state} belongs to {user()}, and nobody else can write in it", problem)


def _memory(where: str, state: str) -> Iterator[Checked]:
    """Try to open what passes keep there: another user may have made it, in earlier versions."""
    for name in ("locks", "said", "crashes", "lists"):
        directory = os.path.join(state, name)
        what = f"{directory} and its files can be written"
        problem = ""
        for path in _kept(directory):
            if not os.access(path, os.W_OK):
                problem = (
                    f"{path}: user {user()} may not write it; another user ran a pass: "
                    f"sudo chown -R {user()} {names.quoted(state)}"
                )
                break
        yield Checked(where, what, problem)


def _kept(directory: str) -> Iterator[str]:
    """Yield a directory, if it is there, and then the files in it, if they may be listed."""
    if os.path.lexists(directory):
        yield directory
        with suppress(OSError):
            yield from (entry.path for entry in os.scandir(directory))


def _check_database(settings: Settings) -> Iterator[Checked]:
    from dbbbatch.areas.storage import relocate
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Run

    url, where = settings.database.url, "[database] url"
    if connect.is_sqlite(url):
        directory = os.path.dirname(connect.sqlite_path(url))
        yield _directory(where, directory, "SQLite writes beside its file")
        yield _local(where, directory, "SQLite loses data there; use a disk here, or PostgreSQL")
    problem, later, known, without = "", False, set(), list[str]()
    try:
        connect.connect(settings.database)
        known = connect.read(Run.sites)
        without = relocate.homeless(settings)
        connect.must_be_writable()
    except DbbError as error:
        problem, later = str(error), isinstance(error, TryLater)
    finally:
        connect.disconnect()
    yield Checked(where, f"{fields.without_password(url)} answers", problem, later=later)
    if not problem:
        yield _check_site(settings.site.name, known)
        yield from (_storage(path) for path in without)


def _check_site(site: str, known: Collection[str]) -> Checked:
    remark = ""
    if known and site not in known:
        remark = (
            f"the database knows the sites {', '.join(sorted(known))} and no {site}: well for a "
            "new site; one that was renamed finds none of its files there: name it as before"
        )
    return Checked("[site] name", f"the database may know {site}", remark=remark)


def _storage(path: str) -> Checked:
    return Checked(
        f"[database] storage {path}",
        "the table has files of it",
        remark=(
            "the table has files of this storage, and no section has it: well if another "
            "configuration file does; if it has moved, tell the table: "
            f"`dbb storage move {names.quoted(path)} NEW`"
        ),
    )


def _check_handoff(handoff: Handoff, site: Site) -> Iterator[Checked]:
    for key in ("buffer", "holding", "quarantine"):
        where, path = f"[{handoff.label}] {key}", getattr(handoff, key)
        there = _directory(where, path)
        yield there
        if there.problem:
            continue
        if key != "buffer":
            yield _same_file_system(where, handoff.buffer, path)
            yield _placing(where, path)
            yield _renaming(where, handoff.buffer, path)
    for key in ("holding_free", "confirm_targets"):
        if getattr(handoff, key) and not handoff.endpoint.confirm:
            yield _never_purged(handoff, key)
    found = list(_commands(handoff))
    yield from found
    if any(checked.problem for checked in found):
        return
    there = _far_end(handoff)
    yield there
    if not there.problem:
        yield from _transfer(handoff, site)
    if handoff.endpoint.confirm:
        yield _confirm(handoff)


def _check_finder(finder: Finder) -> Iterator[Checked]:
    where = f"[{finder.label}]"
    yield _directory(f"{where} source", finder.source)
    for key in ("storage", "quarantine"):
        there = _directory(f"{where} {key}", getattr(finder, key))
        yield there
        if not there.problem:
            yield _placing(f"{where} {key}", getattr(finder, key))
    yield _check_sentinel(f"{where} sentinel", finder.storage, finder.sentinel)
    if finder.standard == "move" and os.path.isdir(finder.storage):
        yield from _storing(where, finder)
    if finder.standard == "move":
        yield from _moving(f"{where} source", finder)
    if finder.group:
        yield _check_group(f"{where} group", finder.group)


def _check_target(target: Target, settings: Settings) -> Iterator[Checked]:
    where = f"[{target.label}]"
    yield _directory(f"{where} storage", target.storage, writable=False)
    yield _check_sentinel(f"{where} sentinel", target.storage, target.sentinel)
    yield _plugin(f"{where} plugin", target, settings.site)


def _directory(where: str, path: str, advice: str = "", writable: bool = True) -> Checked:
    what = f"{path} is there and {'writable' if writable else 'readable'}"
    wanted = os.R_OK | os.X_OK | (os.W_OK if writable else 0)
    problem = ""
    if not os.path.lexists(path):
        problem = f"{path}: is not there; make or mount it"
    elif not os.path.isdir(path):
        problem = f"{path}: is no directory"
    elif not os.access(path, wanted):
        how = "write in" if writable else "read"
        problem = f"{path}: user {user()} may not {how} it"
    return Checked(where, what, f"{problem}; {advice}" if problem and advice else problem)


def _local(where: str, path: str, advice: str) -> Checked:
    kind = file_system(path)
    problem = (
        f"{path} is on a network file system ({kind}): {advice}" if kind in mounts.NETWORK else ""
    )
    return Checked(where, f"{path} is on a local file system", problem)


def _same_file_system(where: str, buffer: str, path: str) -> Checked:
    problem = ""
    with suppress(OSError):  # The buffer is not there, which has been said.
        if not mounts.same_file_system(buffer, path):
            problem = f"{path}: must be on the file system of the buffer {buffer}"
    return Checked(where, f"{path} is on the file system of the buffer", problem)


def _placing(where: str, path: str) -> Checked:
    problem = remark = ""
    try:
        if place.can_place(path) == "link" and _links_are_protected():
            remark = (
                f"{path}: files are placed by links there, which the kernel "
                "(fs.protected_hardlinks) refuses for files of other users that this one may not "
                "write"
            )
    except OSError as error:
        problem = f"{path}: a file cannot be placed without overwriting: {error.strerror or error}"
    return Checked(where, f"a file can be placed in {path} without overwriting", problem, remark)


def _links_are_protected() -> bool:
    """Return whether this user may link no files of others."""
    with suppress(OSError), open("/proc/sys/fs/protected_hardlinks", encoding="ascii") as file:
        return os.geteuid() != 0 and file.read().strip() == "1"
    return False


def _moving(where: str, finder: Finder) -> Iterator[Checked]:
    """Yield how files get from source to storage; across mounts they take the time of a copy."""
    source, storage = finder.source, finder.storage
    if not (os.path.isdir(source) and os.path.isdir(storage)):
        return  # which has been said
    yield Checked(where, f"{source} and {storage} lead nowhere into each other", overlap_of(finder))
    how, problem = "renamed", ""
    try:
        if needs_copy(finder) or not place.can_rename(source, storage):
            how = "copied: no rename leads there"
    except OSError as error:
        problem = f"a file cannot be moved from {source} to {storage}: {error.strerror or error}"
    yield Checked(where, f"files go from {source} to {storage}: they are {how}", problem)


def _renaming(where: str, buffer: str, path: str) -> Checked:
    """Move a file of ours as a pass moves originals: one mount may still refuse a rename."""
    problem = ""
    try:
        if not place.can_rename(buffer, path):
            problem = (
                f"{path}: no rename leads there from the buffer {buffer}, though both are on one "
                "mount: name a directory of the same project, file set or subvolume"
            )
    except OSError as error:
        problem = f"{path}: a file cannot be moved there from {buffer}: {error.strerror or error}"
    return Checked(where, f"a file can be moved from {buffer} to {path}", problem)


def _storing(where: str, finder: Finder) -> Iterator[Checked]:
    """Try what a finder does to each file that it stores, beside moving it."""
    problem = ""
    with suppress(KeyError):  # there is no such group, which is said
        group = finder.group
        number = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid if group else None
        try:
            place.can_set_mode(finder.storage, finder.file_mode, number)
        except OSError as error:
            problem = f"{finder.storage}: {error.strerror or error}"
    yield Checked(f"{where} file_mode", "permissions can be set in storage", problem)
    problem = ""
    with suppress(OSError):  # said already
        if place.free_bytes(finder.storage) < finder.min_free:
            problem = (
                f"{finder.storage}: {fields.size_text(place.free_bytes(finder.storage))} free, "
            )
            problem += f"less than {fields.size_text(finder.min_free)}: nothing is stored"
    yield Checked(f"{where} min_free", "storage has so much free space", problem)


def _check_sentinel(where: str, storage: str, name: str) -> Checked:
    path = os.path.join(storage, name)
    problem = ""
    if os.path.isdir(storage) and not os.path.exists(path):
        problem = f"{path}: is not there: storage is not mounted, or `dbb init` was not run"
    return Checked(where, f"{path} says that storage is mounted", problem)


def _check_group(where: str, group: str) -> Checked:
    problem = ""
    try:
        number = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
        if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
            problem = f"user {user()} is not in the group {group!r} and cannot give files to it"
    except KeyError:
        problem = f"there is no group {group!r}"
    return Checked(where, f"files can be given to the group {group!r}", problem)


def _plugin(where: str, target: Target, site: Site) -> Checked:
    """Start the plugin as a pass does, in a process of its own, and give it nothing to do."""
    from dbbbatch.targets.plugin import Misconfigured, NotReady
    from dbbbatch.targets.pool import ask_plugin
    from dbbbatch.targets.worker import Launch

    problem = ""
    try:
        for _ in ask_plugin(Launch.of(target, site), (), logger):
            pass
    except (NotReady, Misconfigured) as error:
        problem = str(error)
    return Checked(where, f"the plugin {target.plugin} starts", problem)


def _commands(handoff: Handoff) -> Iterator[Checked]:
    from dbbbatch.process import template

    for key in ("remote", "transfer"):
        text = getattr(handoff.endpoint, key)
        if text:
            program = template.parse_command(text).shown().split(" ")[0]
            problem = "" if shutil.which(program) else f"{program}: no such command on PATH"
            yield Checked(
                f"[{handoff.label}.endpoint] {key}", f"the command {program} is there", problem
            )


def _far_end(handoff: Handoff) -> Checked:
    from dbbbatch.areas.endpoint import session as sessions
    from dbbbatch.areas.endpoint.transfer import endpoint_address
    from dbbbatch.passes.janitor import CHECK

    far = endpoint_address(handoff)
    where = f"[{handoff.label}.endpoint]"
    what = f"{far.name} answers, has its tools and directories, and places without overwriting"
    try:
        with sessions.Session(far) as session:
            session.trial(f"{CHECK}{secrets.token_hex(8)}")
    except DbbError as error:
        return Checked(where, what, str(error))
    return Checked(where, what)


def _transfer(handoff: Handoff, site: Site) -> Iterator[Checked]:
    """Have the configured command send a file of ours from the buffer, and place it: as a pass."""
    from dbbbatch.areas.endpoint.session import Refused
    from dbbbatch.areas.endpoint.transfer import Sender
    from dbbbatch.passes.handoff.outcomes import attempt_prefix
    from dbbbatch.passes.handoff.streams import lists_directory

    # As a pass would name it, so that the janitor removes what a cut connection leaves.
    attempt = f"{attempt_prefix(site.name, handoff.name)}{secrets.token_hex(8)}"
    lists = lists_directory(site.state)
    ours = not os.path.isdir(lists)
    problem, free = "", ""
    try:
        sender = Sender(handoff, lists)
        with sender.session:
            why = sender.probe(attempt)
            if why is None:
                why = f"{handoff.buffer}: a file to try it with cannot be written"
            problem = why
            try:
                sender.check_space()
            except Refused as error:
                free = str(error)
    except DbbError as error:
        problem = str(error)
    except OSError as error:
        problem = f"{error.filename or lists}: {error.strerror}"
    finally:
        if ours:
            with suppress(OSError):
                os.rmdir(lists)
    where = f"[{handoff.label}.endpoint] transfer"
    yield Checked(where, "it sends a file from the buffer, which can be placed there", problem)
    yield Checked(f"[{handoff.label}] min_free", "staging has so much free space", free)


def _never_purged(handoff: Handoff, key: str) -> Checked:
    problem = f"without [{handoff.label}.endpoint] confirm nothing is ever purged; give that, too"
    return Checked(f"[{handoff.label}] {key}", "the endpoint can be asked", problem)


def _confirm(handoff: Handoff) -> Checked:
    from dbbbatch.areas.endpoint import confirm

    problem = ""
    try:
        confirm.ask(handoff, [])
    except DbbError as error:
        problem = str(error)
    where = f"[{handoff.label}.endpoint] confirm"
    return Checked(where, "the far end answers a janitor's question", problem)

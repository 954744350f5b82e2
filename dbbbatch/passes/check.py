"""Whether the world agrees with the configuration, as ``dbb config check`` asks; no pass does.

Whatever a pass would meet at night is tried here by day, as the user that is going to run it.
"""

import grp
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dbbbatch.areas.storage.mounted import needs_copy, overlap_of
from dbbbatch.config import fields
from dbbbatch.config.load import Settings
from dbbbatch.config.sections import (
    KINDS,
    Database,
    Finder,
    Handoff,
    Receive,
    Site,
    Target,
    is_sqlite,
    sqlite_path,
)
from dbbbatch.errors import ConfigError, DbbError, TryLater, user, user_named
from dbbbatch.files import exposure, mounts, names, place
from dbbbatch.files.lock import Lock, held_locks
from dbbbatch.files.state import is_foreign, let_write, must_own

logger = logging.getLogger("dbbbatch")


@dataclass(frozen=True)
class Checked:
    """One thing that was checked.

    Attributes
    ----------
    where : `str`
        Section and key.
    what : `str`
        What ought to be so.
    problem : `str`
        What is wrong and what to do; '' if nothing is.
    remark : `str`
        What may be intended, or not: no problem.
    note : `str`
        What is worth knowing, and right.
    later : `bool`
        The problem may pass by itself.
    """

    where: str
    what: str
    problem: str = ""
    remark: str = ""
    note: str = ""
    later: bool = False


#: Directories of a receiver.
_RECEIVED = ("staging", "buffer")


def check_everything(settings: Settings) -> Iterator[Checked]:
    """Check everything that the configuration names, and leave nothing behind.

    Yields
    ------
    checked : `Checked`
        In the order of the file.
    """
    yield from (found := list(_check_state(settings)))
    if found[0].problem:
        return
    yield from _check_database(settings)
    for handoff in settings.handoff.values():
        if handoff.is_first:
            yield from _check_buffer(handoff)
        yield from _check_endpoint(handoff, settings)
    for finder in settings.finder.values():
        yield from _check_finder(finder)
    for target in settings.target.values():
        yield from _check_target(target, settings.site)
    for receiver in settings.receive.values():
        yield from _check_receiver(receiver)
    yield from _check_exposure(settings)


def _check_state(settings: Settings) -> Iterator[Checked]:
    state, where = settings.site.state, "[site] state"

    def own() -> None:
        must_own(state, str(settings.path))
        if os.path.isdir(state) and os.stat(state).st_mode & 0o022:
            raise ConfigError(f"{state}: others can write in it: chmod 700 {state}")

    what = f"{state} belongs to {user()}, and nobody else can write in it"
    yield (owned := Checked(where, what, _error_of(own)))
    if owned.problem:
        # What another user may do says nothing about a pass, and would leave files of that user.
        return
    advice = "run `dbb init` as the user that runs the scripts"
    if os.path.isdir(state):
        advice = let_write(state, state, os.geteuid())
    yield _usable_directory(where, state, advice)
    for name in ("locks", "said", "passes", "crashes", "lists"):
        yield _own_files(where, state, os.path.join(state, name))
    yield _local(where, state, "locks do not work there; name a directory of this host")
    yield _free_room(where, state, place.RESERVE, "what is done could not be recorded")
    yield _locking(where, Path(state))
    for path in sorted(Path(state).glob("locks/*.lock")):
        with suppress(OSError):  # this user may not read it, which is reported above
            problem = _error_of(Lock(path.parent, path.stem).require_passes)
            yield Checked(where, f"nothing but a pass holds {path}", problem, later=True)
    for label, holder in held_locks(Path(state) / "locks"):
        yield Checked(where, f"the lock of {label} is known", note=f"{label} is at work: {holder}")


def _locking(where: str, state: Path) -> Checked:
    """Take a lock of our own beside those of the passes."""
    locks, problem = state / "locks", ""
    ours = not locks.exists()
    if state.is_dir():
        lock = Lock(locks, f"check.{secrets.token_hex(8)}")
        try:
            with lock:
                pass
        except DbbError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{locks}: no lock can be taken there: {error.strerror}"
        lock.remove()
        if ours:
            with suppress(OSError):
                locks.rmdir()
    return Checked(where, f"locks can be taken in {locks}", problem)


def _free_room(where: str, path: str, least: int, otherwise: str) -> Checked:
    problem = ""
    with suppress(OSError):  # it is not there, which is reported elsewhere
        if (free := place.free_bytes(path)) < least:
            size, wanted = fields.size_text(free), fields.size_text(least)
            problem = f"{path}: {size} free, less than {wanted}: {otherwise}"
    return Checked(where, f"{path} has {fields.size_text(least)} free", problem, later=True)


def _check_database(settings: Settings) -> Iterator[Checked]:
    from dbbbatch.database import connect
    from dbbbatch.database.models.run import Run
    from dbbbatch.passes import relocate

    url, where = settings.database.url, "[database] url"
    if is_sqlite(url):
        directory = os.path.dirname(sqlite_path(url))
        yield _usable_directory(where, directory, "SQLite writes beside its file")
        yield _local(where, directory, "SQLite loses data there; use a disk here, or PostgreSQL")
        yield _free_room(where, directory, place.RESERVE, "what is done could not be recorded")
    else:
        yield from _password_files(settings.database)
    problem, later, sites = "", False, set[str]()
    abandoned: list[relocate.Abandoned] = []
    targets: list[Checked] = []
    try:
        connect.connect(settings.database)
        sites = connect.read(Run.sites)
        abandoned = relocate.abandoned(settings)
        targets = [_known_target(target, settings.site) for target in settings.target.values()]
        connect.must_be_writable([kind for kind in KINDS if settings.sections(kind)])
    except DbbError as error:
        problem, later = str(error), isinstance(error, TryLater)
    finally:
        connect.disconnect()
    yield Checked(where, f"{fields.without_password(url)} answers", problem, later=later)
    if problem:
        return
    yield from targets
    site, remark = settings.site.name, ""
    if sites and site not in sites:
        remark = (
            f"the database knows the sites {', '.join(sorted(sites))} and no {site}: right for a "
            "new site; one that was renamed finds none of its files there: name it as before"
        )
    yield Checked("[site] name", f"the database may know {site}", remark=remark)
    for one in abandoned:
        remark = (
            "the table has files of this storage, and no section has it: right if another "
            f"configuration file does; if it has moved, record that: `{one.move}`"
        )
        yield Checked(f"[database] storage {one.storage}", "a section has it", remark=remark)


def _known_target(target: Target, site: Site) -> Checked:
    """Return whether the database knows a target as its section has it, which a pass requires."""
    from dbbbatch.database import connect
    from dbbbatch.database.models.target import TargetRow

    row = connect.read(TargetRow.named, site.name, target.name)
    problem = _error_of(row.must_fit, target.storage) if row else ""
    return Checked(f"[{target.label}]", "the database may offer it files", problem)


def _password_files(database: Database) -> Iterator[Checked]:
    """Yield whether only those who run passes can read the passwords of PostgreSQL."""
    if path := database.password_file:
        what = f"{path} belongs to {user()} or root, and others cannot read it"
        yield Checked("[database] password_file", what, _why_unsafe(path, stat.S_IRWXO))
    elif os.path.exists(path := os.environ.get("PGPASSFILE") or os.path.expanduser("~/.pgpass")):
        # libpq ignores one that its group can read.
        problem = _why_unsafe(path, stat.S_IRWXO | stat.S_IRWXG)
        what = f"{path} belongs to {user()}, and nobody else can read it"
        yield Checked("[database] url", what, problem)


def _why_unsafe(path: str, forbidden: int) -> str:
    """Return why a file with passwords is not to be used, and what to do; '' if it is safe."""
    try:
        status = os.stat(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    shown = names.quoted(path)
    if status.st_uid not in (0, os.geteuid()):
        return f"{path}: belongs to {user_named(status.st_uid)}: sudo chown {user()} {shown}"
    if status.st_mode & forbidden:
        how = "o=" if forbidden == stat.S_IRWXO else "go="
        return f"{path}: others can read it: chmod {how} {shown}"
    return "" if os.access(path, os.R_OK) else f"{path}: user {user()} may not read it"


def _check_buffer(handoff: Handoff) -> Iterator[Checked]:
    for key in ("buffer", "holding", "quarantine"):
        where, path = f"[{handoff.table}] {key}", getattr(handoff, key)
        yield (checked := _usable_directory(where, path))
        if key != "buffer" and not checked.problem:
            yield _same_file_system(where, handoff.buffer, path)
            yield _placing(where, path)
            yield _renaming(where, handoff.buffer, path)
    path = handoff.quarantine
    yield _free_room(f"[{handoff.table}] quarantine", path, place.RESERVE, "nothing is put there")


def _check_endpoint(handoff: Handoff, settings: Settings) -> Iterator[Checked]:
    endpoint, site = f"[{handoff.endpoint_table}]", settings.site
    if not handoff.endpoint.confirm and (not handoff.siblings or handoff.name in handoff.required):
        problem = f"without {endpoint} confirm nothing is ever purged; set that, too"
        for key in ("holding_free", "confirm_targets"):
            if getattr(handoff, key):
                yield Checked(f"[{handoff.table}] {key}", "the endpoint can be asked", problem)
        asked = [settings.handoff[one] for one in handoff.others if one in settings.handoff]
        if any(one.endpoint.confirm for one in asked):
            yield Checked(f"{endpoint} confirm", "all required endpoints can be asked", problem)
    yield from (commands := list(_commands(endpoint, handoff)))
    if any(checked.problem for checked in commands):
        return
    yield (checked := _far_end(endpoint, handoff))
    if not checked.problem:
        yield from _transfer(endpoint, handoff, site)
    if handoff.endpoint.confirm:
        from dbbbatch.areas.endpoint import confirm

        what = "the far end answers a janitor's question"
        yield _by_trial(f"{endpoint} confirm", what, confirm.ask, handoff, [])


def _check_finder(finder: Finder) -> Iterator[Checked]:
    where = f"[{finder.label}]"
    yield _usable_directory(f"{where} source", finder.source)
    for key in ("storage", "quarantine"):
        yield (checked := _usable_directory(f"{where} {key}", getattr(finder, key)))
        if not checked.problem:
            yield _placing(f"{where} {key}", getattr(finder, key))
    path = finder.quarantine
    yield _free_room(f"{where} quarantine", path, place.RESERVE, "nothing is put there")
    yield _sentinel(where, finder)
    if finder.standard == "move":
        if os.path.isdir(finder.storage):
            yield from _storing(where, finder)
        if os.path.isdir(finder.source) and os.path.isdir(finder.storage):
            yield from _moving(f"{where} source", finder)
    if finder.group:
        yield _group(f"{where} group", finder.group)


def _check_target(target: Target, site: Site) -> Iterator[Checked]:
    where = f"[{target.label}]"
    yield _usable_directory(f"{where} storage", target.storage, writable=False)
    yield _sentinel(where, target)
    yield _plugin(f"{where} plugin", target, site)


def _check_receiver(receiver: Receive) -> Iterator[Checked]:
    from dbbbatch.process import landlock

    where = f"[{receiver.label}]"
    found = [_usable_directory(f"{where} {key}", getattr(receiver, key)) for key in _RECEIVED]
    yield from found
    if not any(checked.problem for checked in found):
        yield _same_file_system(f"{where} buffer", receiver.staging, receiver.buffer)
        yield _renaming(f"{where} buffer", receiver.staging, receiver.buffer)
    problem = ""
    if receiver.transfer == "rsync" and not landlock.abi():
        problem = (
            "this kernel has no landlock, which confines rsync: give rsync a key of its own with "
            'rrsync, and set transfer = "none"'
        )
    yield Checked(f"{where} transfer", "rsync can be confined", problem)


def _check_exposure(settings: Settings) -> Iterator[Checked]:
    """Yield whether others can exchange directories in which passes work."""
    sections = [
        *((each, ("buffer",), ("holding", "quarantine")) for each in settings.handoff.values()),
        *((each, ("source",), ("storage", "quarantine")) for each in settings.finder.values()),
        *((each, ("storage",), ()) for each in settings.target.values()),
        *((each, ("buffer",), ("staging",)) for each in settings.receive.values()),
    ]
    seen = set()
    for section, shared, ours in sections:
        for key in (*shared, *ours):
            path = getattr(section, key)
            if path not in seen and os.path.isdir(path):
                seen.add(path)
                with suppress(OSError):  # it went meanwhile
                    yield from _exposed(str(section.path(key).where), path, key in ours)


def _exposed(where: str, path: str, is_ours: bool) -> Iterator[Checked]:
    remark = ""
    if why := exposure.why_replaceable(path):
        remark = f"others can put another directory, or a link, in the place of {path}: {why}"
    yield Checked(where, f"nobody else can put something in the place of {path}", remark=remark)
    if not is_ours:
        return
    remark, found = "", exposure.look_below(path)
    if found.exposed:
        remark = f"others can change, move or remove what is in {path}: {found.exposed}"
    yield Checked(where, f"nobody else can write in {path} and its directories", remark=remark)
    if link := found.link:
        remark = (
            f"{names.printable(link)} is a link, which no pass follows: mount what it leads to in "
            "its place (mount --bind), or move it there"
        )
    yield Checked(where, f"no directory in {path} is a link", remark=remark if link else "")


def _error_of(check: Callable[..., object], *args: object) -> str:
    """Return the error that a check raises; '' if it raises none."""
    try:
        check(*args)
    except DbbError as error:
        return str(error)
    return ""


def _usable_directory(where: str, path: str, advice: str = "", writable: bool = True) -> Checked:
    what = f"{path} is there and {'writable' if writable else 'readable'}"
    mode = os.R_OK | os.X_OK | (os.W_OK if writable else 0)
    problem = ""
    if not os.path.lexists(path):
        problem = f"{path}: is not there; make or mount it"
    elif not os.path.isdir(path):
        problem = f"{path}: is no directory"
    elif not os.access(path, mode):
        how = "write in" if writable else "read"
        problem = f"{path}: user {user()} may not {how} it"
    return Checked(where, what, f"{problem}; {advice}" if problem and advice else problem)


def _own_files(where: str, state: str, directory: str) -> Checked:
    """Check what passes keep in a directory: another user may have made it, in older versions."""
    paths = [directory] if os.path.lexists(directory) else []
    with suppress(OSError):
        paths += [entry.path for entry in os.scandir(directory)]
    problem = ""
    if foreign := next((path for path in paths if not os.access(path, os.W_OK)), None):
        why = "; another user ran a pass" if is_foreign(foreign, os.geteuid()) else ""
        command = let_write(state, foreign, os.geteuid())
        problem = f"{foreign}: user {user()} may not write it{why}: {command}"
    return Checked(where, f"{directory} and its files can be written", problem)


def _local(where: str, path: str, advice: str) -> Checked:
    kind, problem = mounts.file_system(path), ""
    if kind in mounts.NETWORK:
        problem = f"{path} is on a network file system ({kind}): {advice}"
    return Checked(where, f"{path} is on a local file system", problem)


def _same_file_system(where: str, buffer: str, path: str) -> Checked:
    problem = ""
    with suppress(OSError):  # the buffer is not there, which was reported
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
    """Return whether this user may not link files of others."""
    with suppress(OSError), open("/proc/sys/fs/protected_hardlinks", encoding="ascii") as file:
        return os.geteuid() != 0 and file.read().strip() == "1"
    return False


def _renaming(where: str, buffer: str, path: str) -> Checked:
    """Move a file of ours as a pass moves originals: one mount may still refuse a rename."""
    problem = ""
    try:
        if not place.can_rename(buffer, path):
            problem = (
                f"{path}: no rename leads there from {buffer}, though both are on one "
                "mount: name a directory of the same project, file set or subvolume"
            )
    except OSError as error:
        problem = f"{path}: a file cannot be moved there from {buffer}: {error.strerror or error}"
    return Checked(where, f"a file can be moved from {buffer} to {path}", problem)


def _moving(where: str, finder: Finder) -> Iterator[Checked]:
    """Yield how files get from source to storage; across mounts they take the time of a copy."""
    source, storage = finder.source, finder.storage
    yield Checked(where, f"{source} and {storage} lead nowhere into each other", overlap_of(finder))
    how, problem = "renamed", ""
    try:
        if needs_copy(finder) or not place.can_rename(source, storage):
            how = "copied: no rename leads there"
    except OSError as error:
        problem = f"a file cannot be moved from {source} to {storage}: {error.strerror or error}"
    yield Checked(where, f"files go from {source} to {storage}: they are {how}", problem)


def _storing(where: str, finder: Finder) -> Iterator[Checked]:
    """Try what a finder does to each file that it stores, beside moving it."""
    storage, problem = finder.storage, ""
    with suppress(KeyError):  # there is no such group, which is reported elsewhere
        group = _group_number(finder.group) if finder.group else None
        try:
            place.can_set_mode(storage, finder.file_mode, group)
        except OSError as error:
            problem = f"{storage}: {error.strerror or error}"
    yield Checked(f"{where} file_mode", "permissions can be set in storage", problem)
    yield _free_room(
        f"{where} min_free", storage, finder.min_free, "what must be copied is not stored"
    )


def _sentinel(where: str, section: Finder | Target) -> Checked:
    path, problem = os.path.join(section.storage, section.sentinel), ""
    if os.path.isdir(section.storage) and not os.path.exists(path):
        problem = f"{path}: is not there: storage is not mounted, or `dbb init` was not run"
    return Checked(f"{where} sentinel", f"{path} shows that storage is mounted", problem)


def _group(where: str, group: str) -> Checked:
    problem = ""
    try:
        number = _group_number(group)
        if os.geteuid() != 0 and number not in {os.getegid(), *os.getgroups()}:
            problem = f"user {user()} is not in the group {group!r} and cannot give files to it"
    except KeyError:
        problem = f"there is no group {group!r}"
    return Checked(where, f"files can be given to the group {group!r}", problem)


def _group_number(group: str) -> int:
    return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid


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


def _commands(where: str, handoff: Handoff) -> Iterator[Checked]:
    from dbbbatch.process import template

    for key in ("remote", "transfer"):
        if text := getattr(handoff.endpoint, key):
            program = template.parse_command(text).shown().split(" ")[0]
            problem = "" if shutil.which(program) else f"{program}: no such command on PATH"
            yield Checked(f"{where} {key}", f"the command {program} is there", problem)


def _far_end(where: str, handoff: Handoff) -> Checked:
    from dbbbatch.areas.endpoint import session as sessions
    from dbbbatch.areas.endpoint.transfer import endpoint_address
    from dbbbatch.passes.janitor import CHECK

    address = endpoint_address(handoff)

    def trial() -> None:
        with sessions.Session(address) as session:
            session.trial(f"{CHECK}{secrets.token_hex(8)}")

    what = f"{address.name} answers, has its tools and directories, and places without overwriting"
    return _by_trial(where, what, trial)


def _by_trial(where: str, what: str, trial: Callable[..., object], *args: object) -> Checked:
    try:
        trial(*args)
    except DbbError as error:
        return Checked(where, what, str(error), later=_may_pass(error))
    return Checked(where, what)


def _may_pass(error: DbbError) -> bool:
    """Return whether the line was not there, which may pass without an operator."""
    from dbbbatch.areas.endpoint.charge import tells_lost_line

    return isinstance(error, TryLater) and tells_lost_line(str(error))


def _transfer(endpoint: str, handoff: Handoff, site: Site) -> Iterator[Checked]:
    """Send a file of ours from the buffer, and place it, as a pass does."""
    from dbbbatch.areas.endpoint.session import Refused
    from dbbbatch.areas.endpoint.transfer import Sender
    from dbbbatch.files.tree import Tree
    from dbbbatch.passes.handoff.delivery import attempt_prefix, lists_directory

    # As a pass would name it, so that the janitor removes what a cut connection leaves.
    attempt = f"{attempt_prefix(site.name, handoff.name)}{secrets.token_hex(8)}"
    lists = lists_directory(site.state)
    ours = not os.path.isdir(lists)
    problem, free, later = "", "", False
    try:
        with Tree(handoff.buffer) as buffer:
            sender = Sender(handoff, buffer, lists)
            with sender.session:
                why = sender.probe(attempt)
                if why is None:
                    why = f"{handoff.buffer}: a file to try it with cannot be written"
                problem = why
                try:
                    sender.spare_bytes()
                except Refused as error:
                    free = str(error)
    except DbbError as error:
        problem, later = str(error), _may_pass(error)
    except OSError as error:
        problem = f"{error.filename or lists}: {error.strerror}"
    finally:
        if ours:
            with suppress(OSError):
                os.rmdir(lists)
    way = "the built-in stream" if handoff.has_stream else "the command"
    what = f"{way} sends a file from the buffer, which can be placed there"
    note = "left out: the built-in stream sends the files" if handoff.has_stream else ""
    yield Checked(f"{endpoint} transfer", what, problem, note=note, later=later)
    yield Checked(f"[{handoff.table}] min_free", "staging has so much free space", free, later=True)

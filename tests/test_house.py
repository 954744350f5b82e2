"""The rules of the house: what may import what, one name for one thing, one shape for a change.

The rules are explained in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.scripts import TOP

#: The floors, from the top; a module imports from its own floor and from those below it.
FLOORS = [
    ["cli", "demo", "__main__"],
    ["report"],
    ["passes"],
    ["areas"],
    ["targets", "database"],
    ["config"],
    ["process"],
    ["files"],
    ["errors"],
]

#: What each module of its kind has, and so more than one.
COMMON_NAMES = {"main", "command", "intend", "act", "record", "recover"}

#: The steps of what can be killed, in their order.
STEPS = ["intend", "act", "record", "recover"]

#: The modules that move, remove or register files.
SHAPED = [
    "dbbbatch.areas.quarantine",
    "dbbbatch.areas.release",
    "dbbbatch.areas.resend",
    "dbbbatch.areas.storage.duplicates",
    "dbbbatch.areas.storage.store",
    "dbbbatch.passes.forget",
    "dbbbatch.passes.handoff.delivery",
    "dbbbatch.passes.handoff.holding",
    "dbbbatch.passes.ingester.offer",
    "dbbbatch.passes.janitor",
]

#: What starts a program; only `dbbbatch.process.run` has any of these.
STARTERS = {"subprocess", "sh", "multiprocessing", "pty"}
STARTING_CALLS = {"fork", "forkpty", "system", "popen", "posix_spawn", "posix_spawnp"}


@cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted((TOP / "dbbbatch").rglob("*.py")):
        name = ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


def imported(name: str) -> set[str]:
    """Return the modules of the package that a module imports anywhere, for types too."""
    found = set()
    for node in ast.walk(modules()[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules() else node.module)
        elif isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
    return {one for one in found if one in modules() and one not in (name, "dbbbatch")}


def floor(name: str) -> int:
    room = name.partition(".")[2].partition(".")[0]
    if not room:
        return len(FLOORS)
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_imports_point_down() -> None:
    up = [
        f"{name} imports {other}"
        for name in modules()
        for other in imported(name)
        if floor(other) < floor(name)
    ]
    assert not up


def test_imports_run_in_no_circle() -> None:
    graph = {name: imported(name) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def top_level_names(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def test_a_name_is_defined_in_one_module() -> None:
    where = defaultdict(set)
    for name, tree in modules().items():
        for defined in top_level_names(tree):
            where[defined].add(name)
    shared = {
        name: places
        for name, places in where.items()
        if len(places) > 1 and name not in COMMON_NAMES | {"logger"}
    }
    assert not shared


def docstrings(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def test_a_docstring_says_what_a_function_does() -> None:
    vague = [
        f"{name}: {text.splitlines()[0]}"
        for name, tree in modules().items()
        for text in docstrings(tree)
        if text.partition(" ")[0].strip(",.:;") in {"Give", "Tell", "Say", "Have"}
    ]
    assert not vague


def steps_of(name: str) -> list[str]:
    """Return the steps that a module defines, in their order: as functions, or as methods."""
    scopes: list[ast.Module | ast.ClassDef] = [
        node for node in ast.walk(modules()[name]) if isinstance(node, ast.Module | ast.ClassDef)
    ]
    named = (
        [node.name for node in scope.body if isinstance(node, ast.FunctionDef)] for scope in scopes
    )
    return max(([one for one in names if one in STEPS] for names in named), key=len)


@pytest.mark.parametrize("name", SHAPED)
def test_what_can_be_killed_has_four_steps_in_order(name: str) -> None:
    assert steps_of(name) == STEPS


def starts_programs(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and STARTERS & {alias.name for alias in node.names}:
            return True
        if isinstance(node, ast.ImportFrom) and node.module in STARTERS:
            return True
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "os"
            and (node.attr in STARTING_CALLS or node.attr.startswith(("exec", "spawn")))
        ):
            return True
    return False


def test_only_one_module_starts_programs() -> None:
    assert [name for name, tree in modules().items() if starts_programs(tree)] == [
        "dbbbatch.process.run"
    ]


def test_tests_mirror_the_package() -> None:
    """A test file that is named for a module stands where that module does."""
    packages = {name.rpartition(".")[0] for name in modules()}
    places = {Path(*name.split(".")[1:]) for name in modules() if name not in packages}
    names = {place.name: place.parent for place in places}
    astray = []
    for path in (TOP / "tests").rglob("test_*.py"):
        about = path.stem.removeprefix("test_")
        folder = path.relative_to(TOP / "tests").parent
        one = sum(place.name == about for place in places) == 1
        if one and not any(package.endswith(f".{about}") for package in packages):
            if folder.parts[:1] in {("killing",), ("docs",)}:
                continue
            if folder != names[about]:
                astray.append(str(path.relative_to(TOP)))
    assert not astray


#: A number in a template, then what is counted, in the plural.
COUNTED = re.compile(
    r"(?:\{\}|%d|%s) (?:\w+ )?(?:files|bytes|rows|logs|passes|tries|attempts|others)\b"
)


def templates(tree: ast.Module) -> Iterator[str]:
    """Return the texts of a module, with {} for each value that is put into them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_a_count_takes_its_noun_from_one_place() -> None:
    bad = [
        f"{name}: {text}"
        for name in modules()
        for text in templates(modules()[name])
        if COUNTED.search(text)
    ]
    assert not bad, "`files.names.counted` knows 1 file from 2 files"


#: Functions of `os` that change what a path leads to, unless a name in an open directory is meant.
CHANGING = {
    *("chflags", "chmod", "chown", "lchflags", "lchmod", "lchown", "link", "makedirs", "mkdir"),
    *("mkfifo", "mknod", "remove", "removedirs", "removexattr", "rename", "renames", "replace"),
    *("rmdir", "setxattr", "symlink", "truncate", "unlink", "utime"),
}
#: Flags of `os.open` by which it changes something.
WRITING = {"O_APPEND", "O_CREAT", "O_RDWR", "O_TMPFILE", "O_TRUNC", "O_WRONLY"}
#: What `shutil` has that changes nothing.
LOOKING = {"which", "get_terminal_size", "disk_usage"}
#: Methods of `pathlib.Path` that change what it leads to.
CHANGING_METHODS = {
    *("chmod", "hardlink_to", "lchmod", "mkdir", "rename", "replace", "rmdir", "symlink_to"),
    *("touch", "unlink", "write_bytes", "write_text"),
}

#: The modules outside `files/` that change what a path leads to: no file of a site, and why.
OUTSIDE_ALL_ROOTS = {
    "dbbbatch.areas.endpoint.transfer_command": "lists of files for a command, in the state",
    "dbbbatch.cli.init": "the sentinel and the state, before there are passes",
    "dbbbatch.cli.man": "manual pages, where a person wants them",
    "dbbbatch.database.backup": "a copy of the database, where a person wants it",
    "dbbbatch.database.connect": "the SQLite database",
    "dbbbatch.demo.sites": "a demonstration in a directory of its own",
    "dbbbatch.demo.systems": "a demonstration in a directory of its own",
    "dbbbatch.passes.check": "directories of the state that a trial made",
    "dbbbatch.passes.crash": "a traceback, in the state",
    "dbbbatch.report.page.site": "pages of a report",
    "dbbbatch.targets.butler.gen2": "what a killed ingest left in a repository of the Butler",
    "dbbbatch.targets.butler.headers": "headers of a file, in a temporary directory",
    "dbbbatch.targets.butler.origins": "where files came from, in the state",
    "dbbbatch.targets.butler.prepare": "a new repository of the Butler",
    "dbbbatch.targets.rucio.server": "a server for a demonstration, in a directory of its own",
}


def changes(node: ast.AST, has_paths: bool) -> bool:
    """Return whether an expression changes, or can change, what a path leads to."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return node.value.id == "shutil" and node.attr not in LOOKING
    if not isinstance(node, ast.Call):
        return False
    keywords = {each.arg: each.value for each in node.keywords}
    function = node.func
    if isinstance(function, ast.Name) and function.id == "open":
        return opens_for_writing([*node.args[1:2], *(keywords.get(one) for one in ("mode",))])
    if not isinstance(function, ast.Attribute):
        return False
    if isinstance(function.value, ast.Name) and function.value.id == "os":
        below_a_directory = {"dir_fd", "src_dir_fd", "dst_dir_fd"} & set(keywords)
        return not below_a_directory and (
            function.attr in CHANGING
            or (
                function.attr == "open"
                and any(isinstance(n, ast.Attribute) and n.attr in WRITING for n in ast.walk(node))
            )
        )
    if function.attr == "open":
        return has_paths and opens_for_writing([*node.args[:1], keywords.get("mode")])
    # A text, and a time, are replaced by more than one argument, or by names.
    if function.attr == "replace" and (len(node.args) != 1 or keywords):
        return False
    return has_paths and function.attr in CHANGING_METHODS


def opens_for_writing(modes: Iterable[ast.AST | None]) -> bool:
    """Return whether a file is opened for writing, by what is given as its mode."""
    return any(
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, str)
        and set("wax+") & set(mode.value)
        for mode in modes
    )


def changed_by_path(tree: ast.Module) -> list[int]:
    """Return the lines in which a module changes what a path leads to."""
    nodes = list(ast.walk(tree))
    has_paths = any(isinstance(node, ast.ImportFrom) and node.module == "pathlib" for node in nodes)
    return [
        node.lineno for node in nodes if isinstance(node, ast.expr) and changes(node, has_paths)
    ]


def test_only_files_changes_what_a_path_leads_to() -> None:
    """Whoever may write to a directory on the way can exchange it; `files/tree.py` holds it."""
    found = {
        name: lines
        for name, tree in modules().items()
        if not name.startswith("dbbbatch.files.") and (lines := changed_by_path(tree))
    }
    unknown = {name: lines for name, lines in found.items() if name not in OUTSIDE_ALL_ROOTS}
    assert not unknown, "use an entry of a `files.tree.Tree`, or say why not"
    assert not set(OUTSIDE_ALL_ROOTS) - set(found), "these no longer do"


@pytest.mark.parametrize(
    "code",
    [
        "os.rename(a, b)",
        "os.unlink(path)",
        "os.open(path, os.O_WRONLY | os.O_CREAT)",
        "open(path, 'w')",
        "open(path, mode='r+b')",
        "shutil.rmtree(path)",
        "map(shutil.rmtree, paths)",
        "from pathlib import Path; Path(a).unlink()",
        "from pathlib import Path; Path(a).open('wb')",
        "from pathlib import Path; Path(a).replace(b)",
    ],
)
def test_a_change_by_path_is_seen(code: str) -> None:
    assert changed_by_path(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "os.unlink(name, dir_fd=directory)",
        "os.open(path, os.O_RDONLY)",
        "open(path, 'rb')",
        "shutil.which(program)",
        "entry.unlink()",
        "from pathlib import Path; text.replace(a, b); time.replace(tzinfo=None)",
    ],
)
def test_what_changes_nothing_by_path_is_not_seen(code: str) -> None:
    assert not changed_by_path(ast.parse(code))

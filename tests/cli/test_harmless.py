"""What is shown is harmless: on one line, without what a terminal obeys or does not show."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from dbbbatch.cli.dbb import SUBCOMMANDS
from dbbbatch.cli.logs import set_up_logging
from dbbbatch.files import names
from tests.support.handing import change, rows
from tests.support.scripts import Ran
from tests.support.site import Site

pytestmark = pytest.mark.promise

#: A second line, a title of the window, colours, what turns or hides text, markup; then harmless.
BAD = "\n\r\x1b]0;x\x07\x9b31m\x7f\x85\u202e\u2066\u200b\ufeff\u2028\u2029[/bold][red]"
FINE = "é日本."
NAME = f"{FINE}{BAD}fits".replace("/", "")

SCRIPTS = ["dbb-handoff", "dbb-janitor", "dbb-finder", "dbb-ingester", "dbb-auditor"]
LABELS = ["handoff.latiss", "finder.latiss", "target.a"]


def assert_harmless(ran: Ran) -> None:
    assert ran.code != 70
    for line in (ran.out + ran.err).split("\n"):
        assert line.isprintable(), line


@pytest.fixture
def full(site: Site) -> Site:
    """Return a site with a file at each place, and a hostile text in every column with text."""
    for rel in ("night/sent", "night/kept"):
        site.put(rel)
    assert site.run("dbb-handoff").code == 0
    site.put("night/other", b"one", site.storage)
    site.put("night/other", b"two", site.far_buffer)
    assert site.run("dbb-finder").code == 1
    assert site.run("dbb-ingester").code == 0
    site.put(os.fsencode(f"night/{NAME}"))
    site.put(os.fsencode(f"night/{NAME}"), b"other", site.far_buffer)
    site.put(os.fsencode(f"night/{NAME}"), b"stored", site.storage)
    change(
        site,
        "INSERT INTO pause (site, label, since, reason) VALUES ('summit', 'handoff.x',"
        " '2026-11-24 00:00:00', ?)",
        BAD,
    )
    change(
        site,
        "INSERT INTO finder_left (site, finder, relpath, filename, size_bytes, mtime_ns, inode,"
        " verdict, tries, message, seen_at) VALUES ('summit', 'latiss', '', ?, 1, 1, 1, 'FAILED',"
        " 1, ?, '2026-11-24 00:00:00')",
        NAME,
        BAD,
    )
    for table, columns in {
        "handoff_file": ["error", "filename", "held_as"],
        "file": ["error", "filename"],
        "run": ["message"],
        "quarantine": ["reason", "filename"],
        "ingest_event": ["message", "version"],
        "ingest_state": ["message"],
        "transfer_batch": ["error"],
    }.items():
        for column in columns:
            what = "CAST(id AS TEXT)" if column in ("filename", "held_as") else "''"
            if table.startswith("ingest"):
                what = "''"
            change(site, f"UPDATE {table} SET {column} = ? || {what}", NAME)
    change(site, "UPDATE run SET counts = ?", json.dumps({NAME: 1}))
    return site


COMMANDS_OF_OPERATORS = [
    ["status"],
    ["history", f"night/{NAME}"],
    ["find", "night", NAME],
    *(["list", label] for label in LABELS),
    ["history", "d[/bold].fits"],
    ["quarantine", "list"],
    ["target", "list"],
    ["check"],
    *(
        [verb, label, "--dry-run", "--match", "*"]
        for verb in ("retry", "ignore")
        for label in LABELS
    ),
    ["backfill", "finder.latiss", "--dry-run"],
    ["rebuild", "finder.latiss", "--dry-run"],
    ["rebuild", "handoff.latiss", "--dry-run"],
    ["forget", "finder.latiss", f"night/{NAME}"],
    ["quarantine", "release", "finder.latiss", "--match", "*"],
    ["backfill", "finder.latiss"],
]


def test_commands_and_passes_show_nothing_else(full: Site) -> None:
    for arguments in COMMANDS_OF_OPERATORS:
        assert_harmless(full.run("dbb", *arguments))
    for how in ("--dry-run", "-vv"):
        for script in SCRIPTS:
            assert_harmless(full.run(script, how))


def test_json_is_harmless_and_says_what_was_there(full: Site) -> None:
    (number,) = rows(full, "min(id)", "file")
    for arguments in (["status"], ["quarantine", "list"], ["history", f"night/{NAME}{number}"]):
        ran = full.run("dbb", *arguments, "--json")
        assert_harmless(ran)
        assert ran.code == 0, ran.err
        text = json.dumps(json.loads(ran.out), ensure_ascii=False)
        assert json.dumps(NAME, ensure_ascii=False)[1:-1] in text
        assert FINE in ran.out


@pytest.mark.parametrize("backend", ["sqlite"])
def test_arguments_are_echoed_harmlessly(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # `dbb init` makes a database of the name that it is given
    # Those that all commands share come first; each is refused before anything is done.
    for words in (["dbb", NAME], ["dbb-handoff", NAME], ["dbb-finder", "--wait", NAME]):
        assert_harmless(site.run(*words))
    for command in (*SUBCOMMANDS, *SCRIPTS):
        words = [command] if command.startswith("dbb-") else ["dbb", command]
        assert_harmless(site.run(*words, f"--{NAME}", os.fsdecode(b"\xff\x9b")))
    for command in ("history", "pause", "retry", "ignore", "backfill", "forget", "rebuild"):
        assert_harmless(site.run("dbb", command, NAME))
    assert_harmless(site.run("dbb", "-c", NAME, "status"))
    assert_harmless(site.run("dbb", "history", os.fsdecode(b"\xff\x9b")))


def test_log_has_a_line_for_each_message(tmp_path: Path) -> None:
    set_up_logging(0, str(tmp_path / "log"))
    log = logging.getLogger("dbbbatch")
    try:
        raise ValueError(f"{BAD}\n2026 INFO 1 forged")
    except ValueError:
        log.exception("%s", f"{BAD}\n2026 INFO 1 forged")
    for handler in log.handlers:
        handler.close()
    first, *others = (tmp_path / "log").read_text().splitlines()
    assert first.isprintable()
    assert first.endswith("2026 INFO 1 forged")
    assert all(line.isprintable() and line.startswith("  ") for line in others)


@pytest.mark.parametrize("text", ["é", "日本語.fits", "a b", "\\x41", "[/bold]", "😀"])
def test_what_is_harmless_is_shown_as_it_is(text: str) -> None:
    assert names.harmless(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", "a\\x0ab"),
        ("\u202e", "\\u202e"),
        ("\U000e0041", "\\U000e0041"),
        ("\udcff", "\\xff"),
        ("\ud800", "\\ud800"),
        ("\x7f\x9b", "\\x7f\\x9b"),
    ],
)
def test_what_is_not_is_escaped_once(text: str, shown: str) -> None:
    assert names.harmless(text) == shown == names.harmless(shown)


def test_half_a_character_is_no_bug() -> None:
    assert names.printable("a\ud800") == "a\\ud800"


def test_nothing_is_shown_past_the_sinks() -> None:
    """Only where text is shown, and where the text is our own, is it given to click or print."""
    top = Path(names.__file__).parents[1]
    found = {
        str(path.relative_to(top))
        for path in top.rglob("*.py")
        if "click.echo(" in (text := path.read_text()) or "print(" in text.replace(".print(", "")
    }
    assert found == {"cli/config.py", "cli/demo.py", "cli/output.py", "passes/notices.py"}

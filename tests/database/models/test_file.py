"""What storage holds: questions that cost what they ask about, not what there is."""

import pytest

from dbbbatch.database import connect
from dbbbatch.database.models.file import File, FileChecksum, FileRow
from dbbbatch.database.models.finder import Remembered, RememberedFile
from dbbbatch.database.models.ingest import IngestState
from dbbbatch.database.models.statuses import WhyRemembered
from tests.database.models.test_ingest import target

NAMES = [("", "a"), ("2026", "b c"), ("2026", "q\"'\\\\"), ("é\n", "💫\t"), ("1", "2")]


@pytest.fixture
def known(database):
    """A database that knows files of two storage areas."""
    for storage in ("/one", "/two"):
        rows = [FileRow(*name, 1, f"md5:{storage}{name}", 0, 0) for name in NAMES]
        connect.write(lambda storage=storage, rows=rows: File.intend(storage, "x", rows))


def test_known_finds_any_name_of_its_storage_only(known):
    asked = [*NAMES, ("2026", "a"), ("", "b c")]
    found = File.known("/one", asked)
    assert set(found) == set(NAMES)
    assert {row.checksum for row in found.values()} == {f"md5:/one{name}" for name in NAMES}
    assert File.known("/three", asked) == File.known("/one", []) == {}


def test_what_a_finder_remembers_is_found_and_dropped_by_name(database):
    rows = [RememberedFile(*name, 1, 2, 3, WhyRemembered.DUPLICATE) for name in NAMES]
    connect.write(Remembered.remember, "s", "x", rows)
    assert set(Remembered.among("s", "x", NAMES)) == set(NAMES)
    assert Remembered.among("s", "y", NAMES) == {}
    connect.write(Remembered.drop, "s", "x", NAMES[1:])
    assert set(Remembered.among("s", "x", NAMES)) == {NAMES[0]}


def test_an_intent_twice_is_one_row(known):
    row = FileRow(*NAMES[0], 5, "md5:other", 0, 0)
    connect.write(File.intend, "/one", "x", [row])
    assert File.known("/one", NAMES)[NAMES[0]].size_bytes == 1


class TestFurtherChecksums:
    """They are of the content that the row tells of, or are none."""

    OLD, NEW = FileRow("", "a", 1, "md5:old", 0, 0), FileRow("", "a", 1, "md5:new", 0, 0)

    @pytest.fixture(autouse=True)
    def stored(self, database):
        File.intend("/one", "x", [self.OLD])
        File.stored([1])
        FileChecksum.keep([(1, "sha1", "of the old")])

    def intend(self, row):
        known = File.known("/one", [("", "a")])["", "a"]
        connect.write(File.intend_again, "x", [(known, row)])

    def kept(self):
        return [row[0] for row in connect.execute("SELECT value FROM file_checksum").fetchall()]

    @pytest.mark.parametrize(("row", "kept"), [(OLD, ["of the old"]), (NEW, [])])
    def test_those_of_other_content_go_when_it_comes(self, row, kept):
        self.intend(row)
        assert self.kept() == kept

    @pytest.mark.parametrize(("row", "kept"), [(OLD, ["of what came"]), (NEW, [])])
    def test_those_of_what_came_go_with_it(self, row, kept):
        self.intend(row)
        FileChecksum.keep([(1, "sha1", "of what came")])
        connect.write(File.withdraw, [1])
        assert self.kept() == kept

    def test_those_of_what_was_first_read_go_when_it_turns_out_to_be_other(self):
        self.intend(self.OLD)
        connect.write(File.corrected, [(1, self.NEW)])
        assert self.kept() == []


def test_an_intent_without_a_memory_of_what_was_there_leaves_its_history(known):
    """As after an update from a version that kept no such memory."""
    of = target(storage="/one")
    (one, other) = [row.id for row in list(File.known("/one", NAMES).values())[:2]]
    connect.write(IngestState.arrive, [one], "/one")
    connect.write(File.withdraw, [one, other])
    found = dict(connect.execute("SELECT id, status FROM file").fetchall())
    assert found[one] == "MISSING"
    assert other not in found
    assert [row.target_id for row in IngestState.select()] == [of.id]


@pytest.mark.promise
@pytest.mark.parametrize("backend", ["sqlite"])
@pytest.mark.parametrize(
    ("ask", "wanted"),
    [
        (lambda: File.known("/one", NAMES), "(storage=? AND relpath=? AND filename=?)"),
        (lambda: File.below("/one", "2026", 9), "(storage=? AND relpath>? AND relpath<?)"),
        (
            lambda: Remembered.among("s", "x", NAMES),
            "(site=? AND finder=? AND relpath=? AND filename=?)",
        ),
        (
            lambda: Remembered.drop("s", "x", NAMES),
            "(site=? AND finder=? AND relpath=? AND filename=?)",
        ),
        (lambda: File.arriving("/one", "x"), "(storage=? AND finder=? AND id>?"),
        (lambda: File.withdraw([1]), "INDEX file_copy (copy_of=?)"),
        (lambda: File.note_copies(File.arriving("/one", "x")), "(checksum=?)"),
        (
            lambda: Remembered.all_with("s", "x", WhyRemembered.MOVED, 9),
            "(site=? AND finder=? AND verdict=? AND (relpath,filename)>(?,?))",
        ),
        (
            lambda: Remembered.given_up("s", "x", "/one", 9.0, 9),
            "(site=? AND finder=? AND verdict=? AND (relpath,filename)>(?,?))",
        ),
        (
            lambda: Remembered.given_up("s", "x", "/one", 9.0, 9),
            "(storage=? AND relpath=? AND filename=?)",
        ),
    ],
)
def test_history_makes_no_difference(known, database, ask, wanted):
    asked = []
    database.connection().set_trace_callback(asked.append)
    ask()
    database.connection().set_trace_callback(None)
    plans = [
        [row[3] for row in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}").fetchall()]
        for sql in asked
        if sql.startswith(("SELECT", "UPDATE", "DELETE"))
    ]
    steps = [step for plan in plans for step in plan]
    few = ("json_each", "SCAN new", "SCAN CONSTANT ROW")
    assert not [
        step for step in steps if step.startswith("SCAN") and not any(one in step for one in few)
    ], steps
    assert any(wanted in step for step in steps), steps

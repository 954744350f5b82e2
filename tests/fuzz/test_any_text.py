"""Any name, command or line of a log is understood as it is meant, or refused with a reason."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbbbatch.files import names, rsync_log
from dbbbatch.files.tree import outside
from dbbbatch.process import template
from tests.support.fuzz import file_names, fuzzed, path_bytes

pytestmark = pytest.mark.promise

#: Also text that no file system and no database gives.
any_text = st.one_of(st.text(), path_bytes.map(os.fsdecode), path_bytes.map(lambda raw: repr(raw)))


def is_path_of_a_file(rel: str) -> bool:
    return "\0" not in rel and not {"", ".", ".."} & set(rel.split("/"))


class TestNames:
    @fuzzed(200)
    @given(path_bytes)
    def test_a_text_of_a_name_leads_back_to_it(self, raw: bytes) -> None:
        text = names.to_text(os.fsdecode(raw))
        assert os.fsencode(names.from_text(text)) == raw

    @fuzzed(200)
    @given(any_text)
    def test_a_name_has_one_text(self, text: str) -> None:
        try:
            path = names.from_text(text)
        except ValueError:
            return
        assert names.to_text(path) == text

    @fuzzed(300)
    @given(any_text)
    def test_what_leads_out_is_refused(self, rel: str) -> None:
        assert names.is_astray(rel) == (not is_path_of_a_file(rel))
        assert names.stays_inside(f"/root/{rel}", "/root") == is_path_of_a_file(rel)
        if is_path_of_a_file(rel):
            assert os.path.normpath(names.below("/root", rel)) == f"/root/{rel}"
        else:
            with pytest.raises(names.Astray):
                names.below("/root", rel)

    @fuzzed(300)
    @given(any_text, any_text)
    def test_a_row_without_a_fault_names_a_file_below_the_root(self, above: str, last: str) -> None:
        row = SimpleNamespace(relpath=above, filename=last)
        if fault := names.fault(row, held_as=last):
            assert fault.isprintable()
        else:
            rel = names.rel_of(row)
            assert is_path_of_a_file(rel)
            assert names.name_of(rel) == (above, last)

    @fuzzed(200)
    @given(any_text)
    def test_whatever_is_shown_is_one_harmless_line(self, text: str) -> None:
        shown = names.printable(text)
        assert shown.isprintable()
        assert names.harmless(shown) == shown
        shown.encode("utf-8")

    @pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
    @fuzzed(10)
    @given(st.lists(path_bytes, min_size=20, max_size=60))
    def test_a_shell_reads_a_quoted_argument_as_it_was(self, arguments: list[bytes]) -> None:
        quoted = " ".join(names.quoted(os.fsdecode(raw)) for raw in arguments)
        line = f"printf '%s\\0' {quoted}".encode()
        ran = subprocess.run(["bash"], input=line, capture_output=True, check=True)
        assert ran.stdout.split(b"\0")[:-1] == arguments


#: A part of an argument as it is written: text, or a placeholder.
parts = st.one_of(
    st.text(st.characters(exclude_characters="\0", codec="utf-8")),
    st.sampled_from(["file", "dest", "host"]).map(lambda name: (name,)),
)


class TestCommands:
    @fuzzed(150)
    @given(
        st.lists(st.lists(parts, min_size=1, max_size=4), min_size=1, max_size=5),
        st.lists(path_bytes, min_size=3, max_size=3),
    )
    def test_each_argument_is_what_was_written_with_its_values(self, words, values) -> None:
        given_values = dict(zip(("file", "dest", "host"), values, strict=True))
        written, expected = [], []
        for word in words:
            text, value = "", b""
            for part in word:
                if isinstance(part, tuple):
                    text += f"{{{part[0]}}}"
                    value += given_values[part[0]]
                else:
                    part = part.rstrip("$")  # before a placeholder it would be a variable
                    text += part.replace("{", "{{").replace("}", "}}")
                    value += part.encode()
            written.append(text)
            expected.append(value)
        assert template.parse_command(shlex.join(written)).argv(given_values) == expected

    @fuzzed(300)
    @given(st.one_of(any_text, st.lists(st.sampled_from("{}$ab'\" \\"), max_size=12).map("".join)))
    def test_any_text_is_a_command_or_a_reason(self, text: str) -> None:
        with suppress(ValueError):
            assert shlex.split(template.parse_command(text).shown())
        template.command_problems(dict.fromkeys(("remote", "transfer", "confirm"), text), ["a"])

    @fuzzed(100)
    @given(st.lists(path_bytes, max_size=30), st.integers(0, 200))
    def test_groups_leave_nothing_out_and_have_room(self, sources: list[bytes], room: int) -> None:
        found = list(template.groups(sources, room))
        assert [name for group in found for name in group] == sources
        assert all(len(g) == 1 or sum(len(name) + 1 for name in g) <= room for g in found)


def as_rsync_writes(raw: bytes) -> bytes:
    """Write a name as rsync does without --8-bit-output, in a locale of ASCII."""
    raw = re.sub(rb"\\(?=#\d{3})", rb"\\#134", raw)
    return re.sub(rb"[^\x20-\x7e\t]", lambda found: b"\\#%03o" % found[0][0], raw)


class TestLogs:
    @fuzzed(200)
    @given(file_names, st.sampled_from([b"", b"2026/11/24 07:03:13 [8979] "]))
    def test_a_name_that_rsync_wrote_is_read_back(self, raw: bytes, when: bytes) -> None:
        line = rsync_log.parse_line(when + b"<f+++++++++ " + as_rsync_writes(raw))
        assert line.name is not None
        assert os.fsencode(line.name) == raw

    @fuzzed(200)
    @given(file_names, file_names)
    def test_a_link_that_rsync_wrote_is_one_of_the_ways_to_read_it(self, raw, other) -> None:
        text = b"hf+++++++++ " + as_rsync_writes(raw) + b" => " + as_rsync_writes(other)
        line = rsync_log.parse_line(text)
        ways = [way[0] for way in line.ways] or [line.name]
        assert os.fsdecode(raw) in ways

    @fuzzed(200)
    @given(
        st.lists(
            st.one_of(
                st.binary(max_size=60),
                path_bytes.map(lambda raw: b"<f+++++++++ " + raw),
                st.from_regex(rb"[<>ch.*][fdL][.+?a-z ]{5,10} .{0,9}", fullmatch=True),
                st.integers(0, 300).map(bytes),
            ),
            max_size=8,
        ),
        st.integers(1, 80),
    )
    def test_a_log_of_anything_is_read_whole_from_anywhere(self, pieces, longest) -> None:
        content = b"\n".join(pieces)
        with (
            tempfile.TemporaryDirectory() as directory,
            mock.patch.object(rsync_log, "_LONGEST", longest),
        ):
            path = Path(directory, "rsync.log")
            path.write_bytes(content)
            log = outside(str(path))
            lines = list(rsync_log.read_lines(log))
            whole = rsync_log.complete(log)
            assert whole == content.rfind(b"\n") + 1
            assert [line.end for line in lines] == [
                at + 1 for at, byte in enumerate(content) if byte == 10
            ]
            for at, line in enumerate(lines):
                assert list(rsync_log.read_lines(log, line.end)) == lines[at + 1 :]
                assert line.name is None or "\0" not in line.name

"""Argument lists from configured commands: decided without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from dbbbatch.process import template


@dataclass
class Endpoint:
    transfer: str = "cp -p {batch} {dest}"
    remote: str = ""
    confirm: str | None = None
    placeholders: Mapping[str, str] = field(default_factory=lambda: {"host": "h", "user": "u"})


def test_a_placeholder_fills_part_of_an_argument() -> None:
    argv = template.parse_command("scp {file} {user}@{host}:{dest}").argv(
        {"file": b"/a b", "user": b"u", "host": b"h", "dest": b"/s/1/"}
    )
    assert argv == [b"scp", b"/a b", b"u@h:/s/1/"]


def test_a_batch_fills_as_many_arguments_as_it_has_files() -> None:
    argv = template.parse_command("cp {batch} x").argv(
        {"batch": [b"/-r", b"/$(touch x)", b"/\xff\n"]}
    )
    assert argv == [b"cp", b"/-r", b"/$(touch x)", b"/\xff\n", b"x"]


def test_quotes_keep_an_argument_together() -> None:
    argv = template.parse_command("rsync -e 'ssh -p {port}' x").argv({"port": b"22"})
    assert argv == [b"rsync", b"-e", b"ssh -p 22", b"x"]


def test_doubled_braces_are_literal() -> None:
    assert template.parse_command("awk '{{print}}' x").argv({}) == [b"awk", b"{print}", b"x"]


def test_words_that_hold_the_name_of_a_placeholder_are_left() -> None:
    argv = template.parse_command("t --backup-file --log-file=batch {file}").argv({"file": b"/f"})
    assert argv == [b"t", b"--backup-file", b"--log-file=batch", b"/f"]


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "a command is expected"),
        ("cp 'x", "no command line"),
        ("cp {batch}/ x", "by itself"),
        ("cp { x", "written twice"),
        ("cp {no-name} x", "written twice"),
    ],
)
def test_what_is_no_command_is_refused(command: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        template.parse_command(command)


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        (Endpoint(transfer="cp {batch} {hots}:{dest}"), "transfer: the placeholder {hots} has no"),
        (Endpoint(transfer="cp {batch} {hots}:{dest}"), "did you mean {host}?"),
        (Endpoint(transfer="cp {batch} {file} {dest}"), "transfer: exactly one of"),
        (Endpoint(transfer="cp x {dest}"), "transfer: exactly one of"),
        (Endpoint(transfer="cp {batch} x"), "transfer: {dest} or {dest_root}"),
        (Endpoint(transfer="cp {batch} {dest} -p${WORD}"), "transfer: ${WORD} would be seen by"),
        (Endpoint(confirm="dbb ${WORD} confirm"), "confirm: ${WORD} would be seen by"),
        (Endpoint(remote="ssh {host}"), "remote: {command} is missing"),
        (Endpoint(confirm="dbb {x} confirm"), "confirm: the placeholder {x}"),
    ],
)
def test_a_problem_names_its_key(endpoint: Endpoint, complaint: str) -> None:
    assert any(
        complaint in problem
        for problem in template.command_problems(vars(endpoint), endpoint.placeholders)
    )


def test_a_sound_endpoint_has_no_problem() -> None:
    endpoint = Endpoint(
        remote="ssh -l {user} {host} {command}",
        transfer="rsync --files-from={files_from} {source_root}/ {user}@{host}:{dest_root}",
        confirm="dbb confirm",
    )
    assert template.command_problems(vars(endpoint), endpoint.placeholders) == []


def test_bbcp_gets_absolute_sources_and_its_parameters() -> None:
    command = template.parse_command(
        "bbcp -V -s {streams} -Z {ports} -T 'ssh -x -a -oFallBackToRsh=no %I -l %U %H bbcp' "
        "{batch} {user}@{host}:{dest}"
    )
    argv = command.argv(
        {
            "streams": b"4",
            "ports": b"5031:5039",
            "user": b"dbb",
            "host": b"far",
            "batch": [b"/data/buffer/n1/a.fits", b"/data/buffer/n1/b.fits"],
            "dest": b"/staging/x/1/",
        }
    )
    assert argv == [
        b"bbcp",
        b"-V",
        b"-s",
        b"4",
        b"-Z",
        b"5031:5039",
        b"-T",
        b"ssh -x -a -oFallBackToRsh=no %I -l %U %H bbcp",
        b"/data/buffer/n1/a.fits",
        b"/data/buffer/n1/b.fits",
        b"dbb@far:/staging/x/1/",
    ]


def test_groups_fit_into_their_room_and_keep_the_order() -> None:
    names = [b"n%03d" % n for n in range(100)]
    groups = [list(group) for group in template.groups(names, 50)]
    assert [name for group in groups for name in group] == names
    assert all(sum(len(name) + 1 for name in group) <= 50 for group in groups)


def test_a_name_longer_than_the_room_is_a_group_of_its_own() -> None:
    assert [list(g) for g in template.groups([b"a", b"b" * 99, b"c"], 50)] == [
        [b"a"],
        [b"b" * 99],
        [b"c"],
    ]

"""Getting started is carried out as it is written, below a directory of the test's own."""

from __future__ import annotations

import getpass
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.scripts import TOP, run_script
from tests.support.ssh import SshServer

PAGE = (TOP / "docs" / "getting-started.md").read_text()

#: They change what belongs to the user who runs the tests: the crontab, and keys.
NOT_HERE = ("crontab", "ssh-keygen", "ssh-copy-id")


def lines(section: str, places: Mapping[str, str]) -> Iterator[list[str]]:
    """Yield the commands of a section, with places of this test instead of those of the page."""
    text = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0]
    for line in "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).splitlines():
        for there, here in places.items():
            line = line.replace(there, here)
        if words := shlex.split(line, comments=True):
            yield words


@pytest.mark.parametrize(
    ("section", "ends"),
    [
        ("A light site", ("target.null", "SUCCESS")),
        ("A handoff site", ("handoff.latiss", "HELD")),
        ("An endpoint site", ("target.null", "SUCCESS")),
    ],
)
def test_a_first_file_goes_all_the_way(
    section: str, ends: tuple[str, str], tmp_path: Path, ssh_server: SshServer
) -> None:
    places = {"/data": f"{tmp_path}/data", "/etc/dbb": f"{tmp_path}/etc", " -o dbb ": " "}
    places |= {"--user dbb": f"--user {getpass.getuser()}", "dbb@": f"{getpass.getuser()}@"}
    (tmp_path / "etc").mkdir()
    (tmp_path / "data/endpoint/buffer").mkdir(parents=True)
    (tmp_path / "data/endpoint/staging").mkdir()
    config = tmp_path / "etc" / "dbb.toml"
    # The page has host and key in the files of ssh, which are the user's own.
    ours = ssh_server.config.read_text().replace(f"Host {ssh_server.host}", "Host archive.*")
    (tmp_path / "ssh_config").write_text(ours)
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/ssh_config "$@"\n')
    ssh.chmod(0o755)
    env = {"PATH": f"{ssh.parent}:/usr/bin:/bin", "DBB_CONFIG": str(config)}
    for program, *given in lines(section, places):
        if program in NOT_HERE:
            continue
        if not program.startswith("dbb"):
            subprocess.run([program, *given], check=True, env=env)
            continue
        ran = run_script(program, *given, env=env)
        assert (ran.code, ran.err) == (0, ""), (program, given, ran)
        if given[:2] == ["config", "new"]:
            written = config.read_text().replace("/var/lib/dbb", f"{tmp_path}/state")
            config.write_text(re.sub(r"(?<![\w/])/data", f"{tmp_path}/data", written))
            assert (tmp_path / "etc" / "dbb.crontab").stat().st_size
        if program == "dbb" and given[0] == "history":
            assert all(word in ran.out for word in ends)

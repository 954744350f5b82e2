"""A key of sshd whose only command is `dbb receive`: what it can do, and what it cannot."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from dbbbatch.areas.endpoint.session import EndpointAddress, Refused, Session
from dbbbatch.config import toml
from dbbbatch.process import landlock, template
from tests.support import ssh
from tests.support.scripts import TOP
from tests.support.site import Site, tree

pytestmark = [
    pytest.mark.promise,
    pytest.mark.parametrize("backend", ["sqlite"]),
    pytest.mark.skipif(not ssh.SSHD, reason="no sshd here (package openssh-server)"),
]

needs_rsync = pytest.mark.skipif(
    not (shutil.which("rsync") and landlock.abi()), reason="no rsync here, or no landlock"
)


class Archive(NamedTuple):
    """An archive that two summits deliver to, each by a key of its own."""

    site: Site
    server: ssh.SshServer
    config: Path

    def client(self, key: str) -> str:
        return f"-F {self.server.directory}/{key}_config -o BatchMode=yes"

    def ask(self, command: str, key: str = "latiss") -> subprocess.CompletedProcess[bytes]:
        """Run a program of ssh with a key: ``{options}`` are those that it needs."""
        return subprocess.run(
            shlex.split(command.replace("{options}", self.client(key))),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def write(self, transfer: str, **endpoint: str) -> Site:
        options = self.client("latiss")
        endpoint |= {"host": self.server.host, "user": self.server.user, "transfer": transfer}
        endpoint |= {"remote": f"ssh {options} -l {{user}} {{host}} {{command}}"}
        return self.site.write(endpoint=endpoint, handoff={"min_free": 0})

    def session(self, key: str, **places: Path) -> Session:
        found = {"buffer": self.site.far_buffer, "staging": self.site.staging, **places}
        remote = template.parse_command(f"ssh {self.client(key)} {self.server.host} {{command}}")
        return Session(EndpointAddress(str(found["buffer"]), str(found["staging"]), remote, {}))


@pytest.fixture
def archive(
    site: Site, own_ssh_server: ssh.SshServer, tmp_path: Path, database_url: str
) -> Archive:
    config = tmp_path / "archive.toml"
    other = tmp_path / "other"
    for name in ("buffer", "staging"):
        (other / name).mkdir(parents=True)
    config.write_text(
        toml.toml_document(
            {
                "site": {"name": "summit", "state": site.state},
                "database": {"url": database_url},
                "receive.latiss": {
                    "buffer": site.far_buffer,
                    "staging": site.staging,
                    "confirm": [str(site.storage)],
                },
                "receive.other": {
                    "buffer": other / "buffer",
                    "staging": other / "staging",
                    "transfer": "none",
                },
            }
        )
    )
    for name in ("latiss", "other"):
        command = f"{sys.executable} {TOP}/bin/dbb -c {config} receive {name}"
        own_ssh_server.bound_key(name, f'command="{command}",restrict')
    return Archive(site, own_ssh_server, config)


RSYNC = (
    "rsync -tp --chmod=Fa-st,Fgo-w --no-implied-dirs --timeout=60"
    " --partial-dir={staging}/dbb-partial --from0 --files-from={files_from}"
    " -e '{ssh}' {source_root}/ {user}@{host}:{dest_root}"
)


@needs_rsync
@pytest.mark.parametrize(
    "transfer",
    [
        RSYNC,
        "rsync -a -e '{ssh}' {batch} {user}@{host}:{dest}",
        "rsync -rz --inplace -e '{ssh}' {batch} {user}@{host}:{dest}",
    ],
)
def test_files_are_delivered_by_rsync_through_the_same_key(archive: Archive, transfer: str) -> None:
    site = archive.write(transfer, ssh=f"ssh {archive.client('latiss')}")
    files = {"a b/$(touch x).fits": b"1", "top": b"2" * 100_000, "new\nline/-rf": b""}
    site.put_all(files)
    assert site.run("dbb-handoff") == (0, "", "")
    assert tree(site.far_buffer) == files
    assert [path.name for path in site.staging.iterdir()] in ([], ["dbb-partial"])


@needs_rsync
def test_the_check_of_the_configuration_goes_through_it(archive: Archive) -> None:
    site = archive.write(RSYNC, ssh=f"ssh {archive.client('latiss')}", confirm="dbb confirm")
    assert site.run("dbb", "check").err == ""


def test_files_are_delivered_by_a_key_of_rrsync(archive: Archive) -> None:
    site, rrsync = archive.site, shutil.which("rrsync")
    if not rrsync or "-absolute" not in Path(rrsync).read_text():
        pytest.skip("no rrsync here that has -absolute")
    command = f"{rrsync} -wo -absolute -no-del -no-lock {site.staging}"
    archive.server.bound_key("data", f'command="{command}",restrict')
    site = archive.write(RSYNC, ssh=f"ssh {archive.client('data')}")
    files = {"a/1": b"1", "a b/2": b"2"}
    site.put_all(files)
    assert site.run("dbb-handoff") == (0, "", "")
    assert tree(site.far_buffer) == files


def test_a_janitor_is_told_what_is_stored(archive: Archive) -> None:
    # The files go by cp, which needs no key: this machine is the archive, too.
    archive.write("cp -p -- {batch} {dest}", confirm="dbb confirm")
    site = archive.site
    document = site.config.read_text().replace("min_free = 0", "min_free = 0\npurge_after = 0")
    site.config.write_text(document)
    site.put("a/1")
    for script in ("dbb-handoff", "dbb-finder", "dbb-janitor"):
        assert site.run(script) == (0, "", "")
    assert tree(site.holding) == {}
    assert tree(site.storage) == {"a/1": b"data"}


class TestRefused:
    """What a stolen key is good for."""

    @pytest.mark.parametrize(
        "command",
        [
            "ssh {options} endpoint",
            "ssh {options} endpoint sh",
            "ssh {options} endpoint cat /etc/passwd",
            "ssh {options} endpoint \"exec sh -c 'id'\"",
            "ssh {options} endpoint dbb status",
            "ssh {options} endpoint dbb confirm -- x",
            "scp -O {options} /etc/hostname endpoint:/tmp/",
            "scp -O {options} endpoint:/etc/hostname /dev/null",
        ],
    )
    def test_a_shell_and_other_programs(self, archive: Archive, command: str) -> None:
        ran = archive.ask(command)
        assert ran.returncode != 0
        assert b"this key may only deliver to receive.latiss" in ran.stdout + ran.stderr

    @pytest.mark.parametrize(
        "command",
        [
            "sftp {options} endpoint:/etc/hostname /dev/null",
            "scp {options} {root}/file endpoint:{root}/x",
        ],
    )
    def test_sftp(self, archive: Archive, command: str) -> None:
        archive.site.put("file", where=archive.site.root)
        ran = archive.ask(command.replace("{root}", str(archive.site.root)))
        assert (ran.returncode, b"Connection closed" in ran.stderr) == (255, True)
        assert not (archive.site.root / "x").exists()

    def test_forwarding(self, archive: Archive) -> None:
        ran = archive.ask(f"ssh {{options}} -W 127.0.0.1:{archive.server.port} endpoint")
        assert (ran.returncode != 0, b"SSH-" in ran.stdout) == (True, False)

    @needs_rsync
    @pytest.mark.parametrize(
        "arguments",
        [
            "{file} endpoint:{staging}/x",
            "endpoint:{staging}/one/t/there {root}/taken",
            "-s {file} endpoint:{staging}/one/t/",
            "--link-dest={buffer} {file} endpoint:{staging}/one/t/",
            "--remote-option=--log-file={root}/log {file} endpoint:{staging}/one/t/",
        ],
    )
    def test_other_uses_of_rsync(self, archive: Archive, arguments: str) -> None:
        site = archive.site
        site.put("file", where=site.root)
        site.put("one/t/there", where=site.staging)
        (site.root / "empty").mkdir()
        words = arguments.format(
            file=site.root / "file",
            root=site.root,
            buffer=site.far_buffer,
            staging=site.staging,
        )
        before = tree(site.root)
        ran = archive.ask(f"rsync -e 'ssh {{options}}' {words}")
        assert (ran.returncode != 0, b"rsync: " in ran.stderr) == (True, True)
        assert tree(site.root) == before

    @needs_rsync
    def test_a_link_in_staging_leads_rsync_nowhere(self, archive: Archive) -> None:
        site = archive.site
        site.put("file", where=site.root)
        (site.staging / "one" / "t").mkdir(parents=True)
        (site.staging / "one" / "1").symlink_to(site.far_buffer)
        (site.staging / "one" / "t" / "d").symlink_to(site.far_buffer)
        to = f"endpoint:{site.staging}/one"
        for arguments in (f"{site.root}/file {to}/1/", f"-R {site.root}/./d/file {to}/t/"):
            site.put("d/file", where=site.root)
            archive.ask(f"rsync -e 'ssh {{options}}' {arguments}")
            assert tree(site.far_buffer) == {}

    @needs_rsync
    def test_links_and_devices_are_not_made(self, archive: Archive) -> None:
        site = archive.site
        (site.root / "link").symlink_to("/etc")
        (site.staging / "one" / "t").mkdir(parents=True)
        archive.ask(
            f"rsync -a -e 'ssh {{options}}' {site.root}/link endpoint:{site.staging}/one/t/"
        )
        assert list((site.staging / "one" / "t").iterdir()) == []

    def test_rsync_where_the_configuration_has_none(self, archive: Archive) -> None:
        ran = archive.ask("ssh {options} endpoint rsync --server . /x", "other")
        assert b"this key may not use rsync" in ran.stderr

    @pytest.mark.parametrize("key", ["buffer", "staging"])
    def test_another_directory_than_that_of_the_section(self, archive: Archive, key: str) -> None:
        with (
            archive.session("latiss", **{key: archive.site.root}) as session,
            pytest.raises(Refused, match=f"this key delivers to the {key}"),
        ):
            session.open()

    def test_the_key_of_one_site_for_the_buffer_of_another(self, archive: Archive) -> None:
        with (
            archive.session("other") as session,
            pytest.raises(Refused, match=r"this key delivers to the staging .*/other/staging"),
        ):
            session.open()
        ran = archive.ask("ssh {options} endpoint dbb confirm", "other")
        assert b"[receive.other] confirm: names no storage area" in ran.stderr

import hashlib
import os
import socket
import subprocess
import zlib

import pytest

from dbbbatch.files import checksum
from dbbbatch.files.tree import outside


@pytest.fixture
def big(tmp_path):
    path = tmp_path / "big"
    path.write_bytes(os.urandom(3_000_001))
    return path


def test_compute_reads_once_for_all_algorithms(big):
    data = big.read_bytes()
    assert checksum.compute(outside(str(big)), checksum.ALGORITHMS) == {
        "blake2b": hashlib.blake2b(data).hexdigest(),
        "sha256": hashlib.sha256(data).hexdigest(),
        "sha512": hashlib.sha512(data).hexdigest(),
        "sha1": hashlib.sha1(data).hexdigest(),
        "md5": hashlib.md5(data).hexdigest(),
        "adler32": f"{zlib.adler32(data):08x}",
    }


@pytest.mark.parametrize(
    ("name", "command"),
    checksum.COMMANDS.items(),
)
def test_compute_equals_the_far_end_command(big, name, command):
    out = subprocess.run([command, big], capture_output=True, text=True, check=True).stdout
    assert out.split()[0] == checksum.compute(outside(str(big)), [name])[name]


def test_a_descriptor_is_read_from_its_beginning(big):
    with open(big, "rb") as file:
        file.read(100)
        with checksum.opened(file.fileno()) as descriptor:
            assert checksum.stream(descriptor, ["md5"]) == checksum.compute(
                outside(str(big)), ["md5"]
            )
        assert not file.closed


def test_a_stored_checksum_is_that_of_its_file(big):
    stored = checksum.format("md5", hashlib.md5(big.read_bytes()).hexdigest())
    assert checksum.matches(outside(str(big)), stored)
    big.write_bytes(b"other")
    assert not checksum.matches(outside(str(big)), stored)


def test_read_notices_a_path_that_leads_to_another_file_by_then(big, monkeypatch):
    status, sums = checksum.read_file(outside(str(big)), ["md5"])
    assert (status, sums) == (os.lstat(big), checksum.compute(outside(str(big)), ["md5"]))
    compute = checksum.compute

    def replace(file, *more):
        found = compute(file, *more)
        os.rename(big, f"{big}.old")
        big.write_bytes(b"other")
        return found

    monkeypatch.setattr(checksum, "compute", replace)
    with pytest.raises(checksum.Changed):
        checksum.read_file(outside(str(big)), ["md5"])


def test_compute_of_an_empty_file(tmp_path):
    (tmp_path / "empty").touch()
    assert checksum.compute(outside(str(tmp_path / "empty")), ["md5"]) == {
        "md5": hashlib.md5().hexdigest()
    }


def test_compute_notices_a_file_that_grows(big, monkeypatch):
    stream = checksum.stream

    def grow(*args):
        found = stream(*args)
        with open(big, "ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(checksum, "stream", grow)
    with pytest.raises(checksum.Changed):
        checksum.compute(outside(str(big)))


@pytest.mark.promise
@pytest.mark.parametrize(("ends", "error"), [(1, checksum.Changed), (2, OSError)])
def test_compute_does_not_take_the_beginning_of_a_file_for_all_of_it(big, monkeypatch, ends, error):
    """A server may answer once, or always, that it has reached the end of the file."""
    answers = [None, *[0] * ends]

    def readv(descriptor, buffers, real=os.readv):
        answer = answers.pop(0) if answers else None
        return real(descriptor, buffers) if answer is None else answer

    monkeypatch.setattr(os, "readv", readv)
    with pytest.raises(error) as raised:
        checksum.compute(outside(str(big)))
    assert raised.type is error


def bind(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: os.symlink("/etc/passwd", path), bind]
)
def test_compute_refuses_what_is_no_file(tmp_path, make):
    path = str(tmp_path / "odd")
    make(path)
    with pytest.raises(checksum.NotRegular):
        checksum.compute(outside(path))


def test_stored_form_goes_both_ways():
    assert checksum.format("md5", "ab") == "md5:ab"
    assert checksum.parse("md5:ab") == ("md5", "ab")
    with pytest.raises(ValueError, match="not a checksum"):
        checksum.parse("ab")


def test_what_is_read_is_noted_block_by_block(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 200_000)
    noted = []
    with checksum.heeding(lambda: False, noted.append):
        checksum.compute(outside(str(path)))
    checksum.compute(outside(str(path)))
    assert sum(noted) == 200_000
    assert len(noted) > 1

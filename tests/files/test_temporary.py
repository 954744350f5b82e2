"""Names of our unfinished files."""

import os

from dbbbatch.files import temporary


def test_a_temporary_path_is_beside_its_destination_and_always_the_same():
    path = temporary.temporary_path("/a/b/c", "finder.x")
    assert os.path.dirname(path) == "/a/b"
    assert path == temporary.temporary_path("/a/b/c", "finder.x")
    other = temporary.temporary_path("/a//b/c", "finder.x")
    assert os.path.basename(path) == os.path.basename(other)


def test_owners_and_destinations_have_names_of_their_own():
    paths = [("/a/b", ""), ("/a/c", ""), ("/a/b", "finder.x")]
    assert len({temporary.temporary_path(*each) for each in paths}) == len(paths)


def test_only_our_names_are_temporary():
    ours = [temporary.temporary_path("/a" * 100), temporary.probe_path("/a", "b")]
    assert all(temporary.is_temporary(os.path.basename(each)) for each in ours)
    assert all(len(os.path.basename(each)) < 64 for each in ours)
    for name in ("a.fits", ".dbb~x", "x.dbb~0123456789abcdef"):
        assert not temporary.is_temporary(name)

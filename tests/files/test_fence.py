"""The fence: nothing below a root is moved by who may have lost the right to it."""

import os
import signal
import subprocess
import sys

import pytest

from dbbbatch.errors import LeaseLost
from dbbbatch.files.fence import Fence, fence, since_boot
from dbbbatch.files.tree import Tree

pytestmark = pytest.mark.promise

#: A process with a lease of a second, which is stopped inside or outside, and then moves a file.
STOPPED = """
import os, signal, sys
from dbbbatch.errors import LeaseLost
from dbbbatch.files import tree
from dbbbatch.files.fence import fence, since_boot

where, root = sys.argv[1:]
fence.extend((1,), since_boot(), 1.0)
stop = lambda: os.kill(os.getpid(), signal.SIGSTOP)
if where == "inside":
    rename = tree.rename
    tree.rename = lambda *words: (stop(), rename(*words))[1]
else:
    stop()
try:
    with tree.Tree(root) as opened:
        opened.move("a", opened, "b")
except LeaseLost:
    sys.exit(75)
"""


def stopped(where, root):
    """Return a process that has stopped itself."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED, where, root])
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    return process


@pytest.fixture
def root(tmp_path):
    (tmp_path / "a").write_text("a")
    return tmp_path


def test_who_is_stopped_inside_is_killed_and_moves_nothing(root):
    process = stopped("inside", root)
    assert process.wait(60) == -signal.SIGKILL  # stopped as it is
    assert os.listdir(root) == ["a"]


def test_who_was_stopped_outside_lives_and_moves_nothing(root):
    process = stopped("outside", root)
    began = since_boot()
    while since_boot() < began + 1:
        pass
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == LeaseLost.exit_code
    assert os.listdir(root) == ["a"]


def test_who_is_in_time_is_let_in_and_lives(root):
    process = stopped("inside", root)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 0
    assert os.listdir(root) == ["b"]


@pytest.fixture
def closed():
    """Close the fence of this process for a while."""
    fence.extend((1,), since_boot(), 60)
    fence.close()
    yield
    fence.remove()


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.move("a", tree, "b"),
        lambda tree: tree.remove("a"),
        lambda tree: tree.remove_tree("a"),
    ],
)
def test_nothing_is_changed_below_a_root_where_it_is_closed(root, closed, change):
    with Tree(str(root)) as tree, pytest.raises(LeaseLost):
        change(tree)
    assert os.listdir(root) == ["a"]


def test_a_renewal_lets_in_again():
    one = Fence()
    one.extend((1,), since_boot() - 60, 60)
    with pytest.raises(LeaseLost):
        one.require()
    one.extend((1,), since_boot(), 60)
    with one:
        one.require()

"""One run per directory."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxpho.errors import InputError
from jaxpho.superscene import lock
from jaxpho.superscene.filesystem import filesystem
from jaxpho.superscene.lock import LOCK, RunLock

HOLD = (
    "import sys, time\n"
    "from jaxpho.superscene.lock import RunLock\n"
    "with RunLock(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def write(folder, **changes):
    values = {"host": "elsewhere", "pid": 1, "boot": "x", "started": "1", "token": "t", "beat": 3}
    (folder / LOCK).write_text(json.dumps(values | changes))


def test_a_second_run_refuses_until_the_first_is_dead(tmp_path, caplog):
    held = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert held.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match=f"in use by process {held.pid} on"):
            RunLock(tmp_path).__enter__()
    finally:
        held.kill()
    # not waited for: a zombie is dead, too
    until = time.monotonic() + 20
    while Path(f"/proc/{held.pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < until
        time.sleep(0.01)
    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
        assert "ended without returning it" in caplog.text
    assert not list(tmp_path.iterdir())
    held.wait()
    held.stdout.close()


def test_a_process_number_that_is_used_again_does_not_hold(tmp_path):
    with RunLock(tmp_path):
        values = json.loads((tmp_path / LOCK).read_text())
    write(tmp_path, **values | {"started": "1"})
    with RunLock(tmp_path):
        pass
    write(tmp_path, **values | {"boot": "before"})
    with RunLock(tmp_path):
        pass
    write(tmp_path, **values)  # ourselves
    with pytest.raises(InputError, match="in use"):
        RunLock(tmp_path).__enter__()


def test_another_host_is_asked_for_its_heartbeat(tmp_path):
    """Alive where it counts on; never by the time of day."""
    write(tmp_path)
    os.utime(tmp_path / LOCK, (0, 0))
    real = time.sleep

    def beats(seconds):
        real(0.01)
        write(tmp_path, beat=4)

    lock.time.sleep = beats
    try:
        with pytest.raises(InputError, match="process 1 on elsewhere"):
            RunLock(tmp_path, stale=30).__enter__()
    finally:
        lock.time.sleep = real
    begun = time.monotonic()
    with RunLock(tmp_path, beat=0.1, stale=0.3):
        assert time.monotonic() - begun >= 0.3
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_who_lost_the_lock_is_told_and_leaves_it(tmp_path):
    with RunLock(tmp_path, beat=0.02) as mine:
        count = json.loads((tmp_path / LOCK).read_text())["beat"]
        time.sleep(0.2)
        assert json.loads((tmp_path / LOCK).read_text())["beat"] > count
        # the heartbeat may be about to write: it looks before it does
        with lock._alone(tmp_path):
            write(tmp_path)
        assert mine.lost.wait(10)
    assert json.loads((tmp_path / LOCK).read_text())["host"] == "elsewhere"


def test_a_broken_lock_file_holds_nobody_and_halves_are_removed(tmp_path):
    (tmp_path / LOCK).write_text("{")
    (tmp_path / ".status.part12.json").write_text("{")
    with RunLock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_wrong_input(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match="cannot be written"):
            RunLock(tmp_path).__enter__()
    finally:
        tmp_path.chmod(0o700)


def test_a_read_only_file_system_is_wrong_input(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(RunLock, "_write", refuse)
    with pytest.raises(InputError, match=re.escape("cannot be written (Read-only file system)")):
        RunLock(tmp_path).__enter__()


def test_the_deepest_mount_counts():
    mounts = (
        "/dev/a / ext4 rw 0 0\nserver:/x /data nfs4 rw 0 0\n/dev/b /data/fast\\040disk xfs rw 0 0\n"
        "broken\n"
    )
    assert filesystem("/home", mounts) == "ext4"
    assert filesystem("/data/run", mounts) == "nfs4"
    assert filesystem("/data/fast disk/run", mounts) == "xfs"
    assert filesystem("/data2", mounts) == "ext4"
    assert filesystem("/home", "") == ""

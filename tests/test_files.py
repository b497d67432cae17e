"""Files: whole or not there, where links lead, under the mode that they had, for one run at a time."""

import errno
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from extras import files
from extras.files import load_arrays, locked, save_arrays, write_atomically
from tests.conftest import ROOT

pytestmark = pytest.mark.usefixtures("usual_signals")
IMPORT = f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); from extras.files import locked, write_atomically"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_link_is_followed_and_the_mode_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "run.npz", tmp_path / "link.npz"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    write_atomically(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new" and target.stat().st_mode & 0o777 == 0o640
    (tmp_path / "nothing.npz").symlink_to(tmp_path / "made.npz")
    write_atomically(tmp_path / "nothing.npz", b"new")
    assert (tmp_path / "made.npz").read_bytes() == b"new"
    assert names(tmp_path) == ["folder", "link.npz", "made.npz", "nothing.npz"] and names(tmp_path / "folder") == ["run.npz"]


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", "/dev/null", "/dev/zero", tmp_path):
        with pytest.raises(OSError, match="is no regular file"):
            write_atomically(path, b"x")
        with pytest.raises(OSError, match="is no regular file"):
            load_arrays(path, "x")
        with pytest.raises(OSError, match="is no regular file"), locked(path):
            pass
    assert names(tmp_path) == ["fifo"]


def test_all_bytes_are_on_the_disk_before_the_file_is_replaced(tmp_path, monkeypatch):
    path, seen = tmp_path / "run.npz", []
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: seen.append((os.fstat(descriptor).st_size, path.read_bytes())))
    write_atomically(path, b"few bytes")
    assert seen == [(9, b"old")] and path.read_bytes() == b"few bytes"


def test_ctrl_c_during_a_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["run.npz"]


# ------------------------------------------------------------------ locks


def test_a_place_is_locked_once(tmp_path):
    path = tmp_path / "run.npz"
    (tmp_path / "link.npz").symlink_to(path)
    with locked(path):
        for name in (path, tmp_path / "link.npz"):
            with pytest.raises(OSError, match=f"^{name}: another run is using it"), locked(name):
                pass
        with locked(tmp_path / "other.npz"):
            pass
    with locked(path):
        pass
    assert names(tmp_path) == ["link.npz"]


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path):
    path = tmp_path / "run.npz"
    program = f"{IMPORT}\nwith locked({str(path)!r}):\n    print('locked', flush=True); time.sleep(1e6)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"locked\n"
    with pytest.raises(OSError, match="another run"), locked(path):
        pass
    process.kill()
    process.communicate()
    assert names(tmp_path) == [".run.npz.lock"]
    with locked(path):
        pass
    assert names(tmp_path) == []


def test_a_lock_that_its_owner_has_just_removed_does_not_count(tmp_path, monkeypatch):
    right = files.fcntl.flock

    def removed_before(file, how):
        (tmp_path / ".run.npz.lock").unlink()
        return right(file, how)

    monkeypatch.setattr(files.fcntl, "flock", removed_before)
    with pytest.raises(OSError, match="another run"), locked(tmp_path / "run.npz"):
        pass


def test_without_locks_it_goes_on(tmp_path, monkeypatch):
    def no_locks(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", no_locks)
    with locked(tmp_path / "run.npz"), locked(tmp_path / "run.npz"):
        pass
    monkeypatch.setattr(files, "fcntl", None)  # Windows
    with locked(tmp_path / "run.npz"), locked(tmp_path / "run.npz"):
        assert names(tmp_path) == []


def test_only_leftovers_of_this_file_are_removed(tmp_path):
    kept = ["run.npz", ".run2.npz.0.tmp", ".run.npz.0.tmp2", "run.npz.0.tmp", ".run[1].npz.0.tmp"]
    for name in (*kept, ".run.npz.0.tmp"):
        (tmp_path / name).write_text("")
    with locked(tmp_path / "run.npz"):
        assert names(tmp_path) == sorted([*kept, ".run.npz.lock"])
    with locked(tmp_path / "run[1].npz"):
        pass
    assert names(tmp_path) == sorted(kept[:-1])


# ------------------------------------------------------------------ what is read


def test_what_would_unpack_to_much_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    header = np.array('{"format": "a bomb", "members": ["x"]}')
    np.savez_compressed(path, metadata=header, x=np.zeros(50_000_000, np.uint8))
    assert path.stat().st_size < 60_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="damaged, or not written by this program"):
        load_arrays(path, "a bomb")
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    np.savez(path, metadata=header, x=np.zeros(3))
    assert load_arrays(path, "a bomb")[1]["x"].shape == (3,)


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_nothing_is_unpickled(tmp_path):
    path, harm = tmp_path / "run.npz", tmp_path / "harm"
    save_arrays(path, "x", {}, {"loss": np.array([Harmful(str(harm))], object)})
    with pytest.raises(ValueError, match="damaged, or not written by this program"):
        load_arrays(path, "x")
    assert not harm.exists()


def test_a_file_gives_back_what_it_was_given(tmp_path):
    arrays = {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.array(1)}
    save_arrays(tmp_path / "x", "some format", {"n": 1, "t": "ä"}, arrays)
    metadata, loaded = load_arrays(tmp_path / "x", "some format")
    assert metadata == {"n": 1, "t": "ä"} and loaded.keys() == arrays.keys()
    assert all(x.dtype == arrays[name].dtype and np.array_equal(x, arrays[name]) for name, x in loaded.items())
    with pytest.raises(ValueError, match="is a 'some format', not a 'other'"):
        load_arrays(tmp_path / "x", "other")
    with zipfile.ZipFile(tmp_path / "x", "a") as archive:
        archive.writestr("more.npy", archive.read("c.npy"))
    with pytest.raises(ValueError, match="damaged"):
        load_arrays(tmp_path / "x", "some format")

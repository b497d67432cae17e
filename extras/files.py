"""Files that are whole or not there: arrays in an .npz without pickle, written at once, checked when read, locked."""

import glob
import io
import json
import os
import secrets
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows: no locks
    fcntl = None


def actual(path):
    """The Path to which symbolic links lead; OSError for a folder, a FIFO or a device. There need not be a file."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise OSError(f"{path}: is no regular file")
    return target


@contextmanager
def locked(path):
    """Within the block no other run can lock `path`: OSError if one has, or if no file can be made beside `path`.

    The lock ends with the process, however that ends; what killed ones have left beside `path` is removed.
    """
    target = actual(path)
    if fcntl is None:
        yield
        return
    lock = target.with_name(f".{target.name}.lock")
    with open(lock, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(file.fileno()).st_nlink > 0  # else the run that had it has just removed it
        except OSError as error:
            free = not isinstance(error, BlockingIOError)  # a file system without locks
        if not free:
            raise OSError(f"{path}: another run is using it")
        for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
            leftover.unlink(missing_ok=True)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def save_arrays(path, format, metadata, arrays):
    """Write metadata (what JSON can hold) and a dict of arrays to `path`; see write_atomically."""
    header = {"format": format, "members": list(arrays)} | metadata
    data = io.BytesIO()
    np.savez(data, metadata=np.array(json.dumps(header)), **arrays)
    write_atomically(path, data.getbuffer())


def write_atomically(path, data):
    """Replace the file `path` by `data` (bytes), under its mode: after a crash at any time it is the old or the new one."""
    path = actual(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if path.exists():
                os.chmod(temporary, path.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_arrays(path, format, check=lambda metadata, arrays: None):
    """(metadata, arrays) that save_arrays wrote with this `format`; ValueError if it did not, or if check() raises one."""
    content = actual(path).read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError  # packed: nobody knows how large it is
            members = {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}  # read() checks the CRC-32
        arrays = {name.removesuffix(".npy"): np.lib.format.read_array(data) for name, data in members.items()}
        metadata = json.loads(str(arrays.pop("metadata")))
        found = metadata.pop("format")
        if metadata.pop("members") != list(arrays):
            raise ValueError  # members were added or removed
    except Exception:  # damage shows in many ways
        raise ValueError(f"{path}: damaged, or not written by this program") from None
    if found != format:
        raise ValueError(f"{path}: is a {found!r}, not a {format!r}")
    try:
        check(metadata, arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return metadata, arrays

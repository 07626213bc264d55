"""Compiled kernels on disk: only the first process on a machine waits for the compilers.

A cubin is machine code of one kernel, for one GPU's capability and one choice of argument types.
The cache is a directory of files, each named by the kernel's fingerprint
(:mod:`llm_numba.runtime.fingerprint`): nothing in it is ever out of date, only unused. A file is::

    llm_numba cubin 1            what this is
    sha256 of all that follows   a file that was damaged is compiled anew
    {"entry": ..., ...}          what a launch must know besides the code
    the cubin

Files appear by rename, so any number of processes may share the directory: at worst two compile the
same kernel, and the same bytes replace each other. When the directory grows beyond its limit, the
files that were unused for longest go.

``LLM_NUMBA_CACHE`` names another directory than ``$XDG_CACHE_HOME/llm_numba/cubins`` (by default
below ``~/.cache``), or switches the cache off: ``LLM_NUMBA_CACHE=off``.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from llm_numba import variables

LIMIT_BYTES = 512 * 2**20

_OFF = ("", "0", "off")
_MAGIC = b"llm_numba cubin 1"
_SUFFIX = ".cubin"


@dataclass(frozen=True)
class Cubin:
    """Machine code of a kernel, and what a launch must know of it.

    Attributes
    ----------
    entry : str
        The kernel's name inside the code.
    cooperative : bool
        Whether its blocks wait for each other, so that all must be on the GPU at once.
    code : bytes
    """

    entry: str
    cooperative: bool
    code: bytes


class CubinCache:
    """A directory of cubins.

    Parameters
    ----------
    directory : Path
        Made when the first file is written.
    limit_bytes : int
        What its files may take.
    """

    def __init__(self, directory: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.directory = directory
        self._limit_bytes = limit_bytes

    def read(self, key: str) -> Cubin | None:
        """Return what was written under a key.

        Parameters
        ----------
        key : str
            A fingerprint.

        Returns
        -------
        Cubin or None
            None if there is no such file, or it is damaged or cannot be read.
        """
        path = self._path(key)
        try:
            magic, checksum, rest = path.read_bytes().split(b"\n", 2)
            if magic != _MAGIC or checksum != _checksum(rest):
                return None
            header, code = rest.split(b"\n", 1)
            fields = json.loads(header)
            # Its age is that of its last use, where it may be noted: not in a directory that
            # somebody else filled for everybody.
            with contextlib.suppress(OSError):
                os.utime(path)
            return Cubin(fields["entry"], fields["cooperative"], code)
        except (OSError, ValueError, KeyError):
            return None

    def write(self, key: str, cubin: Cubin) -> None:
        """Keep a cubin under a key; where nothing can be written, nothing is.

        Parameters
        ----------
        key : str
            A fingerprint.
        cubin : Cubin
        """
        header = json.dumps({"entry": cubin.entry, "cooperative": cubin.cooperative}).encode()
        rest = header + b"\n" + cubin.code
        # A full disk or a read-only home costs the next process its time, not this one its kernel.
        with contextlib.suppress(OSError):
            # Machine code: nobody else may put something in its place.
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._replace(self._path(key), b"\n".join((_MAGIC, _checksum(rest), rest)))
            self._trim()

    def files(self) -> list[Path]:
        """Return the files of all entries: sound, damaged, or begun and never ended."""
        return sorted(self.directory.glob(f"*{_SUFFIX}*"))

    def clear(self) -> int:
        """Remove all entries.

        Returns
        -------
        int
            How many there were.
        """
        files = self.files()
        for path in files:
            path.unlink(missing_ok=True)
        return len(files)

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{_SUFFIX}"

    def _replace(self, path: Path, data: bytes) -> None:
        number, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=self.directory)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(data)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)  # Ctrl-C may come when it has its new name
            raise

    def _trim(self) -> None:
        """Remove what was not used for longest, until the rest is within the limit."""
        ages = []
        for path in self.files():
            with contextlib.suppress(FileNotFoundError):  # another process trims too
                status = path.stat()
                ages.append((status.st_mtime_ns, status.st_size, path))
        surplus = sum(size for _, size, _ in ages) - self._limit_bytes
        for _, size, path in sorted(ages):
            if surplus <= 0:
                return
            path.unlink(missing_ok=True)
            surplus -= size


def cubin_cache() -> CubinCache | None:
    """Return the cache of this user, or None if the environment switches it off."""
    chosen = variables.read("LLM_NUMBA_CACHE")
    if chosen is not None:
        return None if chosen in _OFF else CubinCache(Path(chosen).expanduser())
    home = variables.read("XDG_CACHE_HOME") or Path.home() / ".cache"
    return CubinCache(Path(home) / "llm_numba" / "cubins")


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()

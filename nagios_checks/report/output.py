"""Where a report goes: files that are written whole or not at all, and standard output."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile

# What a web server or the textfile collector may read, as far as the umask allows.
MODE = 0o644


def write(path: str, text: str) -> None:
    """Write a file so that who reads it sees the old one or the new one, never half of one. Raises OSError.

    What is no ordinary file (a pipe, /dev/stdout whatever that is) is written to as it is.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG | (MODE & ~_umask())
    data = text.encode("utf-8", "backslashreplace")
    if not stat.S_ISREG(mode) or path.startswith("/dev/"):
        with open(path, "wb") as stream:
            stream.write(data)
        return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
    try:
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fchmod(stream.fileno(), stat.S_IMODE(mode))
            os.fsync(stream.fileno())  # some file systems notice only here that they are full
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _umask() -> int:
    """The process's; there is no way to ask but to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def print_text(text: str) -> None:
    """Print what a terminal of any encoding can show; one who stopped reading wants no more. Raises OSError."""
    if sys.stdout is None:
        return  # somebody closed it before we began
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered would fail again when Python ends, and that makes exit code 120.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno not in (errno.EPIPE, errno.EBADF):
            raise

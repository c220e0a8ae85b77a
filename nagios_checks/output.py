"""Where words go: files that are written whole or not at all, standard output, and standard error."""

from __future__ import annotations

import errno
import os
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO

from mailprobe.text import printable

# What a web server or the textfile collector may read, as far as the umask allows.
MODE = 0o644
# Of files. A character that cannot be encoded, half of a pair, is shown as an escape.
ENCODING, ERRORS = "utf-8", "backslashreplace"


def write(path: str, pieces: Iterable[str]) -> None:
    """Write a file so that who reads it sees the old one or the new one, never half of one. Raises OSError.

    What is no ordinary file (a pipe, /dev/stdout whatever that is) is written to as it is.
    """
    target = os.path.realpath(path)
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG | (MODE & ~_umask())
    if not stat.S_ISREG(mode) or path.startswith("/dev/"):
        with open(path, "w", encoding=ENCODING, errors=ERRORS, newline="") as stream:
            stream.writelines(pieces)
        return
    descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(target)}.", dir=os.path.dirname(target))
    try:
        with open(descriptor, "w", encoding=ENCODING, errors=ERRORS, newline="") as stream:
            stream.writelines(pieces)
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


def print_text(pieces: Iterable[str]) -> None:
    """Print what a terminal of any encoding can show; one who stopped reading wants no more. Raises OSError."""
    if sys.stdout is None:
        return  # somebody closed it before we began
    try:
        encoding = sys.stdout.encoding or "utf-8"
        for piece in pieces:
            sys.stdout.write(piece.encode(encoding, ERRORS).decode(encoding))
        sys.stdout.flush()
    except OSError as error:
        _let_go(sys.stdout)
        if error.errno not in (errno.EPIPE, errno.EBADF):
            raise


def complain(words: str) -> None:
    """Say one line where errors go; where nobody hears it (closed, a full disk), the exit code has to do."""
    if sys.stderr is None:
        return
    try:
        sys.stderr.write(printable(words) + "\n")
        sys.stderr.flush()
    except OSError:
        _let_go(sys.stderr)


def _let_go(stream: TextIO) -> None:
    """What is still buffered would fail again when Python ends, and that makes exit code 120."""
    with suppress(OSError):  # no descriptors are left
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())

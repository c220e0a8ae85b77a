"""A user's regular expressions in a report: in a process each, since on a thread nothing ends one that backtracks."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

# The texts come on standard input: what a server said has no business in a command line.
_PROGRAM = "import json, re, sys; sys.exit(10 + (re.search(*json.load(sys.stdin)) is not None))"
_NOT_FOUND, _FOUND = 10, 11


def search(pattern: str, text: str, seconds: float) -> bool:
    """Whether the expression is found in the text. Raises `socket.timeout` when that takes longer than so many seconds.

    While it matches, Python's `re` lets no other thread run, and a hostile server can make that take for ever: the
    whole report would stand still.
    """
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    words = json.dumps([pattern, text]).encode()
    try:
        done = subprocess.run(command, input=words, capture_output=True, timeout=max(seconds, 0.0), check=False)
    except subprocess.TimeoutExpired:
        raise socket.timeout("the regular expression does not end") from None
    if done.returncode not in (_NOT_FOUND, _FOUND):
        raise RuntimeError(f"the process of a regular expression ended with {done.returncode}")
    return done.returncode == _FOUND

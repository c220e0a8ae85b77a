"""A user's regular expressions in a report: in a process each, since on a thread nothing ends one that backtracks."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys

# The texts come on standard input: what a server said has no business in a command line. The alarm is for when the run
# has ended before the time is over (Ctrl-C), and nobody is left to end this process.
_PROGRAM = """
import json, re, signal, sys
pattern, text, seconds = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_REAL, seconds)
sys.exit(10 + (re.search(pattern, text) is not None))
"""
_NOT_FOUND, _FOUND = 10, 11


def search(pattern: str, text: str, seconds: float) -> bool:
    """Whether the expression is found in the text. Raises `socket.timeout` when that takes longer than so many seconds.

    While it matches, Python's `re` lets no other thread run, and a hostile server can make that take for ever: the
    whole report would stand still.
    """
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM]
    seconds = max(seconds, 0.001)
    words = json.dumps([pattern, text, seconds]).encode()
    try:
        done = subprocess.run(command, input=words, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise socket.timeout("the regular expression does not end") from None
    if done.returncode == -signal.SIGALRM:  # a busy machine began to count our own seconds later than it did its
        raise socket.timeout("the regular expression does not end")
    if done.returncode not in (_NOT_FOUND, _FOUND):
        raise RuntimeError(f"the process of a regular expression ended with {done.returncode}")
    return done.returncode == _FOUND

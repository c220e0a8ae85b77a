"""Where a command gets its secrets from, none of which is its own command line, and the options that a file holds."""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping

from mailprobe.options import UsageError, shown

# More than any password or token.
MAX_SECRET = 65536
# How long to wait for `--extra-opts=@<(command)`: what it brings may say what the time limit is.
FILE_SECONDS = 10.0

SOURCES = {
    "file": ("FILE", "File that holds the {}."),
    "env": ("NAME", "Environment variable that holds the {}."),
    "command": ("COMMAND", "Command that prints the {}; it is run without a shell."),
    "credential": ("NAME", "Credential of the systemd unit (LoadCredential=) that holds the {}."),
}
"""How a secret can be given, as the end of an option's name, the word for its value, and what it is."""


def secret(name: str, given: Mapping[str, str | None], seconds: float, inline: str | None = None) -> str | None:
    """The secret `name` from the one source in `given`, or from an ini file (`inline`); None when there is none.

    A command, or who writes into a pipe, has so many `seconds` for it. The last line end of a file or of what a command
    prints does not count. Raises `UsageError`, which never tells of
    the content.
    """
    named = [source for source, value in given.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{name}_{named[1]}", f"contradicts {{{name}_{named[0]}}}: give one of them")
    if not named:
        return inline  # the command line wins over a file of options
    source = named[0]
    option, value = f"{name}_{source}", given[source] or ""
    try:
        found = _READERS[source](value, seconds).decode("utf-8").rstrip("\r\n")
    except OSError as error:
        raise UsageError(option, f"{shown(value)} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(option, f"what is in {shown(value)} is not a text in UTF-8") from None
    except ValueError:  # a NUL in it
        raise UsageError(option, f"{shown(value)} is no name of a file") from None
    except _NotThere as reason:
        raise UsageError(option, str(reason)) from None
    if not found:
        raise UsageError(option, f"there is no {name} in {shown(value)}")
    return found


class _NotThere(Exception):
    """A source that has nothing, and why."""


def _from_file(path: str, seconds: float) -> bytes:
    """A small file, or what comes through a pipe; a pipe into which nobody writes must not hold us up."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _read_up(descriptor, time.monotonic() + seconds)
    finally:
        os.close(descriptor)


def _read_up(descriptor: int, end: float) -> bytes:
    """What there is to read up to the end of the file, of the time (of the monotonic clock), or of MAX_SECRET."""
    os.set_blocking(descriptor, False)
    read = b""
    while len(read) < MAX_SECRET:
        try:
            chunk = os.read(descriptor, MAX_SECRET)
        except BlockingIOError:  # somebody has the other end and has not written yet
            if not select.select([descriptor], [], [], max(end - time.monotonic(), 0))[0]:
                break
            continue
        if not chunk:
            break
        read += chunk
    return read


def _from_environment(name: str, dummy: float) -> bytes:
    if name not in os.environ:
        raise _NotThere(f"there is no environment variable {shown(name)}")
    return os.environb[name.encode()]


def _from_command(command: str, seconds: float) -> bytes:
    try:
        running = subprocess.Popen(
            shlex.split(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except (ValueError, IndexError):
        raise _NotThere(f"{shown(command)} is no command") from None
    with running:
        end = time.monotonic() + seconds
        try:
            read = _read_up(running.stdout.fileno(), end) if running.stdout else b""
            running.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise _NotThere(f"{shown(command)} did not end in {seconds:g} s") from None
        finally:
            running.kill()
    if running.returncode:
        raise _NotThere(f"{shown(command)} ended with exit code {running.returncode}")
    return read


def _from_credential(name: str, seconds: float) -> bytes:
    """systemd.exec(5), CREDENTIALS."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise _NotThere("there is no $CREDENTIALS_DIRECTORY: systemd sets it for units with LoadCredential=")
    if "/" in name or not name:
        raise _NotThere(f"{shown(name)} is no name of a credential")
    return _from_file(os.path.join(directory, name), seconds)


_READERS = {
    "file": _from_file,
    "env": _from_environment,
    "command": _from_command,
    "credential": _from_credential,
}


# Options from a file, the Monitoring Plugins' way (https://www.monitoring-plugins.org/doc/extra-opts.html).

INI_FILES = (
    "/etc/monitoring-plugins/monitoring-plugins.ini",
    "/usr/local/etc/monitoring-plugins/monitoring-plugins.ini",
    "/etc/monitoring-plugins.ini",
    "/usr/local/etc/monitoring-plugins.ini",
    "/etc/nagios-plugins/nagios-plugins.ini",
    "/etc/nagios/plugins.ini",
)


def expand(arguments: list[str], program: str, secrets: frozenset[str]) -> tuple[list[str], dict[str, str]]:
    """Replace `--extra-opts=[SECTION][@FILE]` by what the section says, put before all else so that it is overruled.

    Returns the arguments, and the secrets that the section gives by their plain name (`password = ...`), which are no
    arguments. Raises `UsageError`.
    """
    rest = [argument for argument in arguments if not re.fullmatch(r"--extra-opts(=.*)?", argument, re.DOTALL)]
    before: list[str] = []
    inline: dict[str, str] = {}
    for argument in arguments:
        if argument not in rest:
            where = argument.partition("=")[2]
            for key, value in _section(where, program):
                if key == "extra-opts":
                    raise UsageError("extra_opts", "a section cannot name another one")
                if key in secrets:
                    inline[key] = value
                elif len(key) == 1:
                    before.append(f"-{key}{value}")
                else:
                    before.append(f"--{key}={value}" if value else f"--{key}")
    return before + rest, inline


def _section(where: str, program: str) -> list[tuple[str, str]]:
    """The keys and values of a section, in their order and as often as they stand there."""
    section, at, path = where.partition("@")
    section, path = section or program, path if at else _ini_file()
    try:
        text = sys.stdin.read() if path == "-" else _from_file(path, FILE_SECONDS).decode("utf-8")
    except OSError as error:
        raise UsageError("extra_opts", f"{shown(path)} cannot be read: {error.strerror}") from None
    except ValueError:
        raise UsageError("extra_opts", f"{shown(path)} is not a text in UTF-8") from None
    found, inside = [], False
    present = False
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if line.startswith("[") and line.endswith("]"):
            inside = line[1:-1].strip() == section
            present = present or inside
        elif inside and line and line[0] not in "#;":
            key, equals, value = line.partition("=")
            if not equals or not re.fullmatch(r"[A-Za-z0-9_-]+", key.strip()):
                raise UsageError("extra_opts", f"{shown(path)}, line {number}: not of the form name = value")
            found.append((key.strip(), value.strip()))
    if not present:
        raise UsageError("extra_opts", f"{shown(path)} has no section [{section}]")
    return found


def _ini_file() -> str:
    named = os.environ.get("MP_CONFIG_FILE")
    directories = [part for part in os.environ.get("NAGIOS_CONFIG_PATH", "").split(":") if part]
    candidates = [named] if named else []
    candidates += [
        os.path.join(part, name) for part in directories for name in ("monitoring-plugins.ini", "plugins.ini")
    ]
    candidates += INI_FILES
    found = next((path for path in candidates if os.path.isfile(path)), None)
    if found is None:
        raise UsageError(
            "extra_opts", f"there is no file of options; name one: --extra-opts=@FILE. Looked for {candidates[0]}"
        )
    return found

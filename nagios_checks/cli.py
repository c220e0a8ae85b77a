"""The command `mailprobe`: what is more than a single check. Each subcommand has a room of its own.

It is no plugin: what is wrong with a command line or a file goes to standard error, a line each, so that it never
ends up in a page or a file that is printed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from mailprobe.text import printable
from mailprobe.version import __version__

from .arguments import EXIT_UNKNOWN, Misuse, Parser
from .demo import command as demo
from .discover import command as discover
from .output import complain
from .report import command as report
from .report import schema


@dataclass(frozen=True)
class Command:
    """A subcommand. Its module imports at once only what every Python has; `extra` names what else it needs."""

    help: str
    description: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    execute: Callable[[argparse.Namespace], int]
    extra: str


COMMANDS = {
    "report": Command(
        "run many checks and write one report: for cron",
        "Run all checks of a file side by side and write one report of them, for people and machines. Exit codes: as a"
        " plugin, the worst state: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN, or when something could not be done.",
        report.add_arguments,
        report.execute,
        "report",
    ),
    "discover": Command(
        "find the mail services of a domain and write checks for them",
        "Ask DNS for the mail services of a domain, try the well-known ports of its hosts, and print a file of checks"
        " for what is there, for mailprobe report.",
        discover.add_arguments,
        discover.execute,
        "report",
    ),
    "schema": Command(
        "print the JSON Schema of a report's file",
        "Print the JSON Schema of the file that mailprobe report reads, for editors that complete and check it.",
        schema.add_arguments,
        schema.execute,
        "report",
    ),
    "demo": Command(
        "watch the checks at work against a mail host made for it",
        "Start a mail host on loopback, with one good service and a few broken ones, run the real checks against it,"
        " and show what they say. Ends by itself, with 0 when every check said what it should.",
        demo.add_arguments,
        demo.execute,
        "demo",
    ),
}
# The packages of the extras, by the names they are imported by.
PACKAGES = {
    "msgspec": "msgspec",
    "yaml": "PyYAML",
    "rich": "rich",
    "jinja2": "Jinja2",
    "prometheus_client": "prometheus_client",
}


def main(argv: list[str] | None = None) -> NoReturn:
    """Run a subcommand and exit with what it returns."""
    parser = Parser(prog="mailprobe", description="Know whether mail works, and why not.", allow_abbrev=False)
    parser.add_argument("-V", "--version", action="version", version=f"%(prog)s {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=command.help, description=command.description, allow_abbrev=False)
        command.add_arguments(subparser)
    sys.exit(_run(parser, argv))


def _run(parser: Parser, argv: list[str] | None) -> int:
    name = "mailprobe"
    try:
        given = parser.parse_args(argv)
        if given.command is None:
            raise Misuse(f"there is no command; try mailprobe {next(iter(COMMANDS))}, or mailprobe --help")
        name = f"mailprobe {given.command}"
        return COMMANDS[given.command].execute(given)
    except Misuse as misuse:
        words = str(misuse)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in PACKAGES:
            raise
        extra = COMMANDS[given.command].extra
        words = f"needs the Python package {PACKAGES[missing]}: pip install 'mailprobe[{extra}]'"
        return _complain(f"{name} {words}")
    except KeyboardInterrupt:
        words = "interrupted"
    except (OSError, MemoryError) as error:  # no descriptors, no memory, a full disk
        words = f"trouble on this host: {_told(error)}"
    except Exception as error:  # our own bug
        words = f"internal error, please report it: {_told(error)}"
    return _complain(f"{name}: {words}")


def _told(error: BaseException) -> str:
    return printable(f"{type(error).__name__}: {error}".rstrip(": "), limit=300)


def _complain(line: str) -> int:
    complain(printable(line, limit=1000))
    return EXIT_UNKNOWN


if __name__ == "__main__":
    main()

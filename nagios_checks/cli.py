"""The command `mailprobe`: what is more than a single check."""

from __future__ import annotations

import sys
from typing import NoReturn

from mailprobe.version import __version__

from .arguments import EXIT_UNKNOWN, Misuse, Parser


def main(argv: list[str] | None = None) -> NoReturn:
    """Run a subcommand and exit with what it returns."""
    parser = Parser(prog="mailprobe", description="Know whether mail works, and why not.", allow_abbrev=False)
    parser.add_argument("-V", "--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands.add_parser(
        "demo",
        help="watch the checks at work against a mail host made for it",
        description="Start a mail host on loopback, with one good service and a few broken ones, run the real checks"
        " against it, and show what they say. Ends by itself, with 0 when every check said what it should.",
        allow_abbrev=False,
    )
    try:
        given = parser.parse_args(argv)
        if given.command is None:
            raise Misuse("there is no command; try mailprobe demo, or mailprobe --help")
    except Misuse as misuse:
        sys.stdout.write(f"mailprobe: {misuse}\n")
        sys.exit(EXIT_UNKNOWN)
    from .demo.show import show

    sys.exit(show())


if __name__ == "__main__":
    main()

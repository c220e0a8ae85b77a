"""`mailprobe discover`."""

from __future__ import annotations

import argparse
import warnings

from ..arguments import NUMBERS, Misuse

# Enough for a firewall that drops and a slow greeting; a person waits for it.
SECONDS = 20.0
MAX_SECONDS = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("domain", metavar="DOMAIN", help="The part of mail addresses behind the @.")
    parser.add_argument(
        "--nameserver", metavar="ADDRESS[:PORT]", help="Name server to ask; by default those of this host."
    )
    parser.add_argument(
        "--timeout",
        type=NUMBERS["float"],
        default=SECONDS,
        metavar="SECONDS",
        help=f"For everything, look-ups and conversations. Default: {SECONDS:g}.",
    )


def execute(given: argparse.Namespace) -> int:
    """Run the command; returns its exit code. Raises `Misuse`."""
    if not 1 <= given.timeout <= MAX_SECONDS:
        raise Misuse(f"--timeout: is from 1 to {MAX_SECONDS:g}")
    # Of a strange certificate, Python's warnings would go to standard error.
    warnings.simplefilter("ignore")
    from mailprobe.options import UsageError, spell
    from mailprobe.report import Unfinished

    from ..output import print_text
    from .compose import compose
    from .find import checked_domain, discover

    try:
        discovery = discover(checked_domain(given.domain), given.nameserver, given.timeout)
    except UsageError as error:
        option = "--nameserver" if error.option == "nameserver" else "DOMAIN"
        raise Misuse(f"{option}: {spell(error.words, lambda name: name)}") from None
    except Unfinished as unfinished:
        raise Misuse(unfinished.words) from None
    if not discovery.found:
        remarks = "".join(f"; {remark}" for remark in discovery.remarks)
        raise Misuse(f"no mail service of {given.domain} was found: no MX, no SRV, and nothing answers{remarks}")
    print_text((compose(discovery, given.nameserver),))
    return 0

"""check_mail_sieve: does a ManageSieve server work, can a user log in, and is a script active?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import nagiosplugin

from mailprobe.codes import Stage
from mailprobe.report import Report
from mailprobe.sieve import SieveFacts, SieveOptions, probe

from . import command, common
from .arguments import Threshold


def metrics(report: Report[SieveFacts]) -> Iterator[nagiosplugin.Metric]:
    """What only ManageSieve measures."""
    yield from common.measured(("script_count", report.facts.script_count, None))


def headline(report: Report[SieveFacts]) -> Iterator[str]:
    """What was seen."""
    facts = report.facts
    if facts.script_count is not None:
        active = f"'{facts.active_script}' active" if facts.active_script is not None else "none active"
        yield f"{facts.script_count} scripts, {active}"


CHECK = common.CheckSpec(
    name="sieve",
    description="Hold a conversation with a ManageSieve server, judge every reply, log in and look at the scripts when"
    " asked, and say what is wrong. Nothing is ever stored or activated.",
    options=SieveOptions,
    facts=SieveFacts,
    probe=probe,
    metrics=metrics,
    headline=headline,
    stages=(Stage.SCRIPT,),
    thresholds=(Threshold("script_count", "number of scripts"),),
)


def main() -> NoReturn:
    """The command check_mail_sieve."""
    command.main(CHECK)


if __name__ == "__main__":
    main()

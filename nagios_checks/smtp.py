"""check_mail_smtp: does an SMTP, submission or LMTP server work, and if not, why not?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import nagiosplugin

from mailprobe.codes import Stage
from mailprobe.report import Report
from mailprobe.smtp import SmtpFacts, SmtpOptions, probe

from . import command, common
from .arguments import Threshold


def metrics(report: Report[SmtpFacts]) -> Iterator[nagiosplugin.Metric]:
    """What only SMTP measures."""
    yield from common.measured(("size_limit", report.facts.size_limit, "B"))


def headline(report: Report[SmtpFacts]) -> Iterator[str]:
    """What was accepted."""
    facts = report.facts
    if facts.deliveries:
        yield "message accepted" + (f" as {facts.queue_id}" if facts.queue_id else "")
    elif facts.recipients:
        yield f"{len(facts.recipients)} recipient{'s' * (len(facts.recipients) > 1)} accepted"


CHECK = common.CheckSpec(
    name="smtp",
    description="Hold a conversation with an SMTP, submission or LMTP server, judge every reply, and say what is wrong."
    " Nothing is delivered unless --send is given.",
    options=SmtpOptions,
    facts=SmtpFacts,
    probe=probe,
    metrics=metrics,
    headline=headline,
    stages=(Stage.COMMAND, Stage.MAIL, Stage.RCPT, Stage.DATA, Stage.RESET),
    thresholds=(Threshold("size_limit", "octets of the largest message that the server takes"),),
)


def main() -> NoReturn:
    """The command check_mail_smtp."""
    command.main(CHECK)


if __name__ == "__main__":
    main()

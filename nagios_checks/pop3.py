"""check_mail_pop3: does a POP3 server work, can a user log in, and what is in the mailbox?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import nagiosplugin

from mailprobe.codes import Stage
from mailprobe.pop3 import Pop3Facts, Pop3Options, probe
from mailprobe.report import Report

from . import command, common
from .arguments import Threshold


def metrics(report: Report[Pop3Facts]) -> Iterator[nagiosplugin.Metric]:
    """What only POP3 measures."""
    facts = report.facts
    yield from common.measured(
        ("messages", facts.messages, None),
        ("mailbox_bytes", facts.mailbox_bytes, "B"),
        ("largest_bytes", facts.largest_bytes, "B"),
        ("oldest_age", facts.oldest_age, "s"),
        ("newest_age", facts.newest_age, "s"),
    )


def headline(report: Report[Pop3Facts]) -> Iterator[str]:
    """What was seen."""
    if report.facts.messages is not None:
        yield f"{report.facts.messages} messages"
    if report.facts.mailbox_bytes is not None:
        yield f"{report.facts.mailbox_bytes} octets"


CHECK = common.CheckSpec(
    name="pop3",
    description="Hold a conversation with a POP3 server, judge every reply, log in and look into a mailbox when asked,"
    " and say what is wrong. Nothing is ever deleted.",
    options=Pop3Options,
    facts=Pop3Facts,
    probe=probe,
    metrics=metrics,
    headline=headline,
    stages=(Stage.MAILBOX,),
    thresholds=(
        Threshold("messages", "number of messages in the mailbox"),
        Threshold("mailbox_bytes", "octets of all messages"),
        Threshold("largest_bytes", "octets of the largest message"),
        Threshold("oldest_age", "seconds since the oldest message came"),
        Threshold("newest_age", "seconds since the newest message came"),
    ),
)


def main() -> NoReturn:
    """The command check_mail_pop3."""
    command.main(CHECK)


if __name__ == "__main__":
    main()

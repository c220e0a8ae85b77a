"""check_mail_smtp: does an SMTP, submission or LMTP server work, and if not, why not?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

import nagiosplugin

from mailprobe.report import Report
from mailprobe.smtp import SmtpFacts, SmtpOptions, probe

from . import common
from .arguments import Threshold


def metrics(report: Report[SmtpFacts]) -> Iterator[nagiosplugin.Metric]:
    """What only SMTP measures."""
    if report.facts.size_limit is not None:
        yield nagiosplugin.Metric("size_limit", report.facts.size_limit, "B", 0)


def headline(report: Report[SmtpFacts]) -> str:
    """What was done, and by whom."""
    facts = report.facts
    done = [f"'{facts.banner}'"]
    if report.tls.version:
        done.append(report.tls.version)
    if report.certificate.days_left is not None:
        done.append(f"certificate valid for {report.certificate.days_left} days")
    if facts.mechanism:
        done.append(f"logged in with {facts.mechanism}")
    if facts.deliveries:
        done.append("message accepted" + (f" as {facts.queue_id}" if facts.queue_id else ""))
    elif facts.recipients:
        done.append(f"{len(facts.recipients)} recipient{'s' * (len(facts.recipients) > 1)} accepted")
    return f"{', '.join(done)}, in {report.elapsed:.3f} s"


CHECK = common.CheckSpec(
    name="smtp",
    description="Hold a conversation with an SMTP, submission or LMTP server, judge every reply, and say what is wrong."
    " Nothing is delivered unless --send is given.",
    options=SmtpOptions,
    probe=probe,
    metrics=metrics,
    headline=headline,
    thresholds=(Threshold("size_limit", "octets of the largest message that the server takes"),),
)


def main() -> NoReturn:
    """The command check_mail_smtp."""
    common.main(CHECK)


if __name__ == "__main__":
    main()

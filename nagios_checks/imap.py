"""check_mail_imap: does an IMAP server work, can a user log in, and what is in the folders?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import NoReturn

import nagiosplugin

from mailprobe.codes import Stage
from mailprobe.imap import Folder, ImapFacts, ImapOptions, probe
from mailprobe.report import Report

from . import command, common
from .arguments import Threshold

FOLDER_METRICS = (
    ("messages", None, "number of messages in the folder"),
    ("unseen", None, "number of messages nobody has seen"),
    ("recent", None, "number of messages that are new to this session"),
    ("mailbox_bytes", "B", "octets of all messages, where the server tells"),
    ("oldest_age", "s", "seconds since the oldest message came"),
    ("newest_age", "s", "seconds since the newest message came"),
    ("search_hits", None, "number of messages that --search finds"),
)


def metrics(report: Report[ImapFacts]) -> Iterator[nagiosplugin.Metric]:
    """What only IMAP measures. Of several folders each has its own data, and each is judged."""
    facts = report.facts
    labels = _labels(facts.folders)
    for folder, label in zip(facts.folders, labels):
        suffix = f"_{label}" if len(labels) > 1 else ""
        for metric in common.measured(*((name, getattr(folder, name), unit) for name, unit, dummy in FOLDER_METRICS)):
            yield metric.replace(name=f"{metric.name}{suffix}")
    yield from common.measured(
        ("quota_storage_percent", facts.quota_storage_percent, "%"),
        ("quota_messages_percent", facts.quota_messages_percent, "%"),
    )


def _labels(folders: list[Folder]) -> list[str]:
    """The folders' names as parts of labels of performance data: plain, and no two alike."""
    labels: list[str] = []
    for folder in folders:
        plain = label = re.sub(r"\W+", "_", folder.folder)
        others = itertools.count(2)
        while label in labels:
            label = f"{plain}_{next(others)}"
        labels.append(label)
    return labels


def headline(report: Report[ImapFacts]) -> Iterator[str]:
    """What was seen."""
    for folder in report.facts.folders:
        counted = ((folder.messages, "messages"), (folder.unseen, "unseen"), (folder.search_hits, "found"))
        yield f"{folder.folder}: " + ", ".join(f"{number} {what}" for number, what in counted if number is not None)
    if report.facts.quota_storage_percent is not None:
        yield f"quota {report.facts.quota_storage_percent:g} % full"


CHECK = common.CheckSpec(
    name="imap",
    description="Hold a conversation with an IMAP server, judge every reply, log in and look into folders when asked,"
    " and say what is wrong. Nothing in a mailbox is ever changed.",
    options=ImapOptions,
    facts=ImapFacts,
    probe=probe,
    metrics=metrics,
    headline=headline,
    stages=(Stage.MAILBOX, Stage.SEARCH, Stage.QUOTA),
    thresholds=(
        *(Threshold(name, meaning) for name, dummy, meaning in FOLDER_METRICS),
        Threshold("quota_storage_percent", "how full the storage quota is"),
        Threshold("quota_messages_percent", "how full the quota of messages is"),
    ),
)


def main() -> NoReturn:
    """The command check_mail_imap."""
    command.main(CHECK)


if __name__ == "__main__":
    main()

"""Makes seeds of the scripted conversations: `python -m tests.fuzz.seeds DIRECTORY` (`run --merge` does)."""

from __future__ import annotations

import base64
import re
import sys
from pathlib import Path

from ..canary import CANARY, TOKEN
from ..mutation import CONVERSATIONS
from ..scripted import BASE64, Script, Step
from .target import ASKS
from .wire import ENDLESS, SEGMENT, SILENT, TURN

WORDS = {b"{password}": CANARY.encode(), b"{token}": TOKEN.encode(), b"{nonce}": b"n" * 24, b"{line}": b"a line"}


def seed_of(protocol: str, script: Script) -> bytes:
    """The input that says what a script says."""
    said = b""
    tag = 0
    goes_on = False
    for step in script.sections[0]:
        if step.do == "hear":
            said += TURN
            tag += not goes_on
            goes_on = False
        elif step.do in ("hear_literal", "hear_data"):
            said += TURN
        elif step.do in ("say", "flood", "every", "drip"):
            text = filled(step, tag)
            goes_on = re.search(rb"(?:^|\n)\+(?: [^\n]*)?\r?\n$", text) is not None
            said += text + SEGMENT
            if step.do != "say":
                return letter(protocol, script) + said.rstrip(SEGMENT) + ENDLESS
        elif step.do == "silence":
            return letter(protocol, script) + said + SILENT
        elif step.do == "start_tls":
            break
    return letter(protocol, script) + said.replace(SEGMENT + TURN, TURN)


def filled(step: Step, tag: int) -> bytes:
    text = step.text.replace(b"{tag}", b"a%d" % tag)
    for name, words in WORDS.items():
        text = text.replace(name, words)
    return BASE64.sub(lambda found: base64.b64encode(found[1]), text)[:4000]


def letter(protocol: str, script: Script) -> bytes:
    """The letter for the options that are most like those of the script."""
    given = script.option_text
    place = 3 if "starttls" in given else 2 if "--token" in given else 1 if "--username" in given else 0
    if protocol in ("imap", "smtp") and ("SUBJECT" in given or "--rcpt-to" in given):
        place = 1 if "--send" in given else 5
    # The first letter that stands for this place: `a` is 97.
    count = len(ASKS[protocol])
    return bytes([next(code for code in range(97, 123) if code % count == place % count)])


def main() -> None:
    for path in sorted(CONVERSATIONS.glob("*/*.txt")):
        script = Script.read(path)
        protocol = "lmtp" if "--lmtp" in script.option_text else path.parent.name
        directory = Path(sys.argv[1], protocol)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / path.stem).write_bytes(seed_of(protocol, script))


if __name__ == "__main__":
    main()

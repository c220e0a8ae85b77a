#!/usr/bin/env python3
"""The fuzzer of the protocol in $PROTOCOL, with libFuzzer's arguments; `run` calls it for all of them.

A program of its own, since libFuzzer starts it anew when it merges.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["mailprobe", "nagios_checks"]):
    from tests.fuzz import target


def main() -> None:
    protocol = os.environ["PROTOCOL"]

    def converse(data: bytes) -> None:
        target.converse(protocol, data)

    atheris.Setup(sys.argv, converse)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

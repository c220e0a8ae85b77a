"""`mailprobe schema`: the JSON Schema of the report's file, from the same structs that check it."""

from __future__ import annotations

import argparse
import json
from typing import Any

# What editors know (yaml-language-server, VS Code, JetBrains).
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema as plain JSON types."""
    import msgspec

    from .registry import PROTOCOLS
    from .shape import defaults_shape, file_shape, protocol_shape

    checks = {name: protocol_shape(name, spec) for name, spec in PROTOCOLS.items()}
    whole = file_shape(checks, defaults_shape(PROTOCOLS))
    return {"$schema": DIALECT, "title": "mailprobe report", **msgspec.json.schema(whole.struct)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def execute(given: argparse.Namespace) -> int:
    """Print it; returns the exit code."""
    from ..output import print_text

    print_text((json.dumps(schema(), indent=2), "\n"))
    return 0

"""`mailprobe demo`."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def execute(given: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    from .show import show

    return show()

"""The version of mailprobe; not in `__init__.py`, which stays empty so that importing one probe imports one."""

from __future__ import annotations

__version__ = "0.1.0"

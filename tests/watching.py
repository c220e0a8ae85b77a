"""A plugin of pytest: at the end of a session no password of the tests may be found anywhere (see `canary`)."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from .canary import DIRECTORY, Watch

WATCH = pytest.StashKey[Watch]()


def pytest_configure(config: pytest.Config) -> None:
    if DIRECTORY not in os.environ:  # in a worker it is there already
        os.environ[DIRECTORY] = tempfile.mkdtemp(prefix="mailprobe-outputs-")
        config.stash[WATCH] = Watch(Path(os.environ[DIRECTORY]))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    watch = session.config.stash.get(WATCH, None)
    if watch is None:
        return
    del os.environ[DIRECTORY]
    factory = getattr(session.config, "_tmp_path_factory", None)
    found = watch.end(factory.getbasetemp() if factory else None)
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        for words in sorted(found):
            reporter.write_line(f"ERROR a secret got out, {words}", red=True)

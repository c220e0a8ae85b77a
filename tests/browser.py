"""A real browser for the tests of the report's page: Chromium without a window, driven by its DevTools protocol.

The protocol goes through a pipe that Chromium inherits (messages in JSON, each ended by a zero octet), so neither a
driver nor a library is between the test and the browser, and no port is open.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, final

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
# A browser that has not answered by then on a busy machine never will.
PATIENCE_SECONDS = 60
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    # What a browser does of its own accord, and not for the page.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
)
# Events of a page that complains: errors and warnings, refusals of its policy, and whatever it says on the console.
COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Audits.issueAdded")


def program() -> str | None:
    """The path of a Chromium, None when this machine has none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class BrowserError(Exception):
    """The browser did not do what it was told."""


def _high(descriptor: int) -> int:
    """The same under a number above 3 and 4, which are Chromium's."""
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return high


@final
class Browser:
    """One page in a browser of its own while the `with` block lasts."""

    def __enter__(self) -> Browser:
        found = program()
        if found is None:
            raise BrowserError("there is no Chromium on this machine")
        self._profile = tempfile.mkdtemp(prefix="mailprobe-browser-")
        theirs_in, self._out = (_high(descriptor) for descriptor in os.pipe())
        self._in, theirs_out = (_high(descriptor) for descriptor in os.pipe())
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's does not work for root
        command = [found, *FLAGS, *sandbox, f"--user-data-dir={self._profile}", "about:blank"]
        null = ((os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3))
        ends = ((os.POSIX_SPAWN_DUP2, theirs_in, 3), (os.POSIX_SPAWN_DUP2, theirs_out, 4))
        self._pid = os.posix_spawn(found, command, os.environ, file_actions=[*null, *ends], setpgroup=0)
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        try:
            self._attach()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _attach(self) -> None:
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits", "Accessibility", "DOM"):
            self.command(f"{domain}.enable")

    def _stop(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self._profile, ignore_errors=True)  # a child of Chromium's may end a moment later

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Say a command of the DevTools protocol; its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        octets = json.dumps(message).encode() + b"\0"
        while octets:
            octets = octets[os.write(self._out, octets) :]
        while True:
            answer = self._hear()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _hear(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
                raise BrowserError("the browser does not answer")
            octets = os.read(self._in, 1 << 20)
            if not octets:
                raise BrowserError("the browser has ended")
            self._buffer += octets
        message, dummy, self._buffer = self._buffer.partition(b"\0")
        heard: dict[str, Any] = json.loads(message)
        return heard

    def open(self, url: str) -> None:
        """Load a page and wait until all of it is there."""
        self.events.clear()
        answer = self.command("Page.navigate", url=url)
        if "errorText" in answer:
            raise BrowserError(f"{url}: {answer['errorText']}")
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._hear())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page, which the page's own policy does not forbid."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise BrowserError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def look(self, width: int = 1280, height: int = 900, scheme: str = "light", media: str = "screen") -> None:
        """Show the page in a window of that size, as `light` or `dark`, on a `screen` or for `print`."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)

    def click(self, selector: str) -> None:
        """Click into the middle of the first element that the selector finds."""
        middle = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView();"
            " const r = e.getBoundingClientRect(); return [r.x + Math.min(r.width / 2, 40), r.y + r.height / 2]; })()"
        )
        x, y = self.evaluate(middle)
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a picture of the page, or of what the window shows of it, as PNG."""
        answer = self.command("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self, path: Path) -> None:
        """Write what would be printed."""
        answer = self.command("Page.printToPDF", paperWidth=8.27, paperHeight=11.69, preferCSSPageSize=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """What the page that is open gave rise to on the console."""
        self.evaluate("0")  # events before the answer are here when it is
        return [event for event in self.events if event.get("method") in COMPLAINTS]

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for since the page was opened, its own among them."""
        self.evaluate("0")
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]

"""A page as its reader has it: headless Chromium, spoken to over a pipe by its DevTools protocol."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DEADLINE_S = 60.0


class Browser:
    """One Chromium with one tab. `close` ends it."""

    def __init__(self, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The protocol is on descriptors 3 and 4: a shell puts ours there.
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe --hide-scrollbars"
        flags += " --disable-background-networking --disable-component-update --no-first-run"
        command = f'exec "$0" {flags} --user-data-dir="$1" about:blank 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, str(CHROMIUM), str(profile)],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in), os.close(theirs_out)
        self._in, self._out, self._rest = ours_in, ours_out, b""
        self._numbers = itertools.count(1)
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        (page, *_) = [t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.ask("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in), os.close(self._out)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The answer to one command; what happens meanwhile is added to `events`."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        os.write(
            self._out, json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0"
        )
        while True:
            answer = self._read()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._in, 2**20)
            assert part, "the browser has ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def open(self, path: Path, *, width: int = 1200, height: int = 1000, dark: bool = False) -> None:
        """Load a file in a window of this size, and wait until it has been drawn."""
        self.events.clear()
        phone = width < 600
        self.ask(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1 + phone, mobile=phone
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.wait(lambda: self.run("document.readyState") == "complete")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, "the page never came to it"
            time.sleep(0.02)

    def click(self, selector: str, times: int = 1) -> None:
        """Press the mouse in the middle of an element, once or twice."""
        x, y, _, _ = self.place(selector)
        for count in range(1, times + 1):
            for kind in ("mousePressed", "mouseReleased"):
                self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def drag(self, selector: str, start: float, end: float) -> None:
        """Drag with the left button over an element, between two fractions of its width."""
        x, y, width, _ = self.place(selector)
        left = x - width / 2
        for kind, at in (("mouseMoved", start), ("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            button = {"button": "left", "clickCount": 1, "buttons": 1} if kind != "mouseMoved" or at == end else {}
            self.ask("Input.dispatchMouseEvent", type=kind, x=left + at * width, y=y, **button)

    def point(self, selector: str, across: float) -> None:
        """Move the mouse over an element, at a fraction of its width."""
        x, y, width, _ = self.place(selector)
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x + (across - 0.5) * width, y=y)

    def place(self, selector: str) -> tuple[float, float, float, float]:
        """Middle (x, y), width and height of an element, which is scrolled into view."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.run(f"(({{x, y, width, height}}) => [x, y, width, height])({found}.getBoundingClientRect())")
        x, y, width, height = box
        return x + width / 2, y + height / 2, width, height

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(shot["data"]))

    def complaints(self) -> list[str]:
        """Errors and warnings on the console, and exceptions, since the page was opened."""
        self.run("1")
        kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
        return [json.dumps(event) for event in self.events if event.get("method") in kinds]

    def requests(self) -> list[str]:
        """What the page has asked for, itself and what it holds left out."""
        self.run("1")
        urls = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in urls[1:] if not url.startswith("data:")]

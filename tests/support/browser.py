"""A page in headless Chromium, driven by its DevTools protocol over a pipe.

No driver library: messages are JSON, ended by a zero byte, on descriptors 3 and 4 of the browser
(`--remote-debugging-pipe`). The browser gets a profile of its own, and no host resolves in
it but 127.0.0.1.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60.0
"""Seconds for one answer; a first start on a busy machine takes several."""

# Descriptors that are not 3 or 4 first, so that neither is lost to the other.
_EXEC = (
    "import os, sys; os.dup2({0}, 13); os.dup2({1}, 14); os.dup2(13, 3); os.dup2(14, 4); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def find_chromium() -> str | None:
    """Find the browser named by CHROMIUM, or else one on the path."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, [named] if named else NAMES)), None)


class Browser:
    """One tab. Every request that it makes is kept."""

    def __init__(self, process: "subprocess.Popen[bytes]", reading: int, writing: int) -> None:
        self._process = process
        self._reading, self._writing = reading, writing
        self._buffer = b""
        self._asked = 0
        self._session: str | None = None
        self.requests: list[str] = []
        self.errors: list[str] = []

    def open(self) -> None:
        """Make the tab."""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """Ask the browser for something, and wait for the answer.

        Raises:
            RuntimeError: the browser says no, or says nothing.
        """
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writing, data) :]
        while True:
            answer = self._read()
            if answer.get("id") == self._asked:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def visit(
        self, page: Path | str, *, width: int, height: int = 900, script: bool = True
    ) -> None:
        """Open a file or an address in a window of this size, and wait until it is drawn."""
        url = page if isinstance(page, str) else page.resolve().as_uri()
        drawn = ("complete", f"{url.partition(':')[0]}:")
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.ask("Emulation.setScriptExecutionDisabled", value=not script)
        self.ask("Page.navigate", url="about:blank")
        self.ask("Page.navigate", url=url)
        for _ in range(600):
            state = self.ask("Runtime.evaluate", expression="document.readyState")
            where = self.ask("Runtime.evaluate", expression="location.protocol")
            if (state["result"]["value"], where["result"]["value"]) == drawn:
                return
            time.sleep(0.05)
        raise RuntimeError(f"{page} is not drawn after 30 s")

    def run(self, expression: str) -> Any:  # noqa: ANN401  whatever JSON the page says
        """Evaluate an expression in the page and return its value.

        Raises:
            RuntimeError: it threw.
        """
        done = self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in done:
            raise RuntimeError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def press(self, key: str, code: str, number: int) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=code,
                windowsVirtualKeyCode=number,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def dark(self, *, dark: bool) -> None:
        """Ask pages for their dark or light colours."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save what the page looks like."""
        shot = self.ask("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def printed(self) -> bytes:
        """Return the page as a PDF."""
        done = self.ask("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(done["data"])

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reading], [], [], left)[0]:
                raise RuntimeError(f"no answer from the browser in {PATIENCE:.0f} s")
            part = os.read(self._reading, 1 << 20)
            if not part:
                raise RuntimeError(f"the browser ended with {self._process.poll()}")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        parameters = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded":
            self.errors.append(parameters["entry"]["text"])
        return message


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Browser]:
    """Run a browser with an empty profile, and end it."""
    to_browser, writing = os.pipe()
    reading, from_browser = os.pipe()
    command = [
        *(sys.executable, "-c", _EXEC.format(to_browser, from_browser), program),
        *("--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
        *("--no-first-run", "--disable-gpu", "--disable-extensions", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *("--hide-scrollbars", "about:blank"),
    ]
    if os.geteuid() == 0:
        command.insert(-1, "--no-sandbox")  # Chromium refuses root otherwise.
    process = subprocess.Popen(
        command,
        pass_fds=(to_browser, from_browser),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(to_browser)
    os.close(from_browser)
    try:
        browser = Browser(process, reading, writing)
        browser.open()
        yield browser
    finally:
        # Closing the pipe is how a browser on a pipe is told to end.
        os.close(writing)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(reading)

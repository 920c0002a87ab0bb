"""A page in headless Chromium, driven over its DevTools pipe (JSON, each message ended by a zero byte).

https://chromedevtools.github.io/devtools-protocol/ ; nothing but a Chromium is needed. Every request of the page is
recorded before it could leave, and all but the page's own file and data URIs are refused.
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

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0  # seconds for one answer; a cold start on a busy machine takes ten


def installed() -> str | None:
    """The Chromium of this machine; PRICHEXY_CHROMIUM names another."""
    stated = os.environ.get("PRICHEXY_CHROMIUM")
    return stated or next((path for name in NAMES if (path := shutil.which(name))), None)


# The browser speaks over its file descriptors 3 and 4; copies made first, since a pipe's own end may be one of them.
_START = """
import os, sys
ends = [os.dup(int(end)) for end in sys.argv[1:3]]
while min(ends) < 5:
    ends = [os.dup(end) for end in ends]
for number, end in enumerate(ends, 3):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One page.

    Attributes:
        requests: addresses that the page asked for, in order, shortened.
        complaints: what the page wrote to its console as a warning or an error.
    """

    def __init__(self, write_fd: int, read_fd: int) -> None:
        self._write_fd, self._read_fd = write_fd, read_fd
        self._buffer, self._number, self._session = b"", 0, ""
        self.requests: list[str] = []
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call("Fetch.enable", patterns=[{"urlPattern": "*"}])

    def open(self, file: Path, width: int, height: int = 900) -> None:
        """The page of a file, laid out for a window of the given size."""
        self.requests.clear()
        self.complaints.clear()
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._call("Page.navigate", url=file.resolve().as_uri())
        deadline = time.monotonic() + PATIENCE
        while self.value("document.readyState") != "complete":
            if time.monotonic() > deadline:
                raise TimeoutError("the page did not finish loading")
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description", "JavaScript failed"))
        return answer["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """A key, pressed where the focus is."""
        for kind in ("rawKeyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def emulate(self, media: str, **features: str) -> None:
        """Print instead of screen, or a preference of the reader."""
        stated = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self._call("Emulation.setEmulatedMedia", media=media, features=stated)

    def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of what a screen reader meets."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node.get("ignored")
        ]

    def screenshot(self, file: Path) -> None:
        """The whole page, as PNG."""
        shot = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(shot["data"]))

    def print(self, file: Path) -> None:
        """The page on A4 paper, as PDF."""
        made = self._call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
        file.write_bytes(base64.b64decode(made["data"]))

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        self._call("Browser.close")

    def _call(self, method: str, **parameters: Any) -> Any:
        number = self._send(method, parameters)
        while True:
            message = self._receive()
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self._note(message)

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._write_fd, data) :]
        return self._number

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            if not select.select([self._read_fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("Chromium did not answer")
            got = os.read(self._read_fd, 1 << 16)
            if not got:
                raise RuntimeError("Chromium ended by itself")
            self._buffer += got
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if method == "Fetch.requestPaused":
            url = facts["request"]["url"]
            self.requests.append(url[:200])
            if url.startswith(("file:", "data:", "about:")):
                self._send("Fetch.continueRequest", {"requestId": facts["requestId"]})
            else:
                self._send("Fetch.failRequest", {"requestId": facts["requestId"], "errorReason": "BlockedByClient"})
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("warning", "error"):
            self.complaints.append(facts["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(facts["exceptionDetails"]["text"])


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Page]:
    """A page of a Chromium that lives as long as the block.

    Args:
        program: see `installed`.
        profile: folder for what it keeps.
    """
    it_reads, we_write = os.pipe()
    we_read, it_writes = os.pipe()
    options = [
        "--headless=new",
        "--no-sandbox",  # CI runs as root, where Chromium has no sandbox
        "--disable-gpu",
        "--hide-scrollbars",  # a window of 420 pixels has all of them for the page
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--no-first-run",
        "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", _START, str(it_reads), str(it_writes), program, *options, "about:blank"],
        pass_fds=(it_reads, it_writes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(profile)},
    )
    os.close(it_reads)
    os.close(it_writes)
    try:
        page = Page(we_write, we_read)
        yield page
        page.close()
    finally:
        os.close(we_write)  # a browser whose pipe is closed ends
        os.close(we_read)
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

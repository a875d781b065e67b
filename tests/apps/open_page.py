"""A page that really runs: `mmembed browse` in a process of its own on a free port, and a hand in a headless browser."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.evaluation.headless_page import HeadlessPage

REPOSITORY = Path(__file__).resolve().parents[2]
_ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/")
_PATIENCE = 900.0  # seconds; a machine may be busy


class RunningPage:
    """`mmembed browse` in a process, ready to be opened.

    Args:
        words: of its command line, after the verb.
        folder: it works in.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        self.log = folder / "page.log"
        environment = {
            **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1",
            "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder),
        }  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mmembed", "browse", "--port", "0", *words],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + _PATIENCE
        while (found := _ADDRESS.search(self.said())) is None:
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise RuntimeError(f"no page: {self.said()[-3000:]}")
            time.sleep(0.1)
        self.address = found[0]

    def said(self) -> str:
        """What it wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def running_page(words: list[str], folder: Path) -> Iterator[RunningPage]:
    """A running page that is stopped at the end."""
    page = RunningPage(words, folder)
    try:
        yield page
    finally:
        if page.process.poll() is None:
            page.process.kill()
            page.process.wait()


class Hand:
    """Clicks and types in a page that is open.

    Args:
        page: the page.
    """

    def __init__(self, page: HeadlessPage) -> None:
        self.page = page

    def until(self, condition: str, seconds: float = 300) -> Any:
        """Wait until an expression is true in the page, and return its value."""
        end = time.monotonic() + seconds
        while not (value := self._run_if_there(condition)):
            if time.monotonic() > end:
                text = self.page.run("document.body.innerText.slice(0, 1500)")
                raise AssertionError(f"never true: {condition}\n{text}")
            time.sleep(0.05)
        return value

    def _run_if_there(self, script: str) -> Any:
        """The value of an expression; None while the page is being loaded anew."""
        try:
            return self.page.run(script)
        except RuntimeError as error:
            if "navigated" not in str(error):
                raise
            return None

    def text(self, selector: str) -> str:
        """What an element says."""
        return str(self.page.run(f"(document.querySelector({json.dumps(selector)}) || {{}}).innerText || ''"))

    def click(self, selector: str, place: int = 0) -> None:
        """Press the mouse on an element that is seen."""
        chosen = f"document.querySelectorAll({json.dumps(selector)})[{place}]"
        self.until(f"!!{chosen}")
        # once it stands still and nothing lies over it: what comes in above it moves it
        box = self.until(
            f"(() => {{ const e = {chosen}; if (!e) return null; e.scrollIntoView({{block: 'center', behavior: 'instant'}}); "
            "const at = () => { const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }; "
            "const first = at(); return new Promise(done => setTimeout(() => { const [x, y] = at(); "
            "const top = document.elementFromPoint(x, y); "
            "done(x === first[0] && y === first[1] && top && (e.contains(top) || top.contains(e)) ? [x, y] : null); }, 60)); })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.page.send("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def type(self, selector: str, text: str, *, enter: bool = False) -> None:
        """Put a text into a field in the place of what stands there, and press Enter where that is wanted."""
        self.click(selector)
        self.page.run(f"document.querySelector({json.dumps(selector)}).select()")
        if text:
            self.page.send("Input.insertText", text=text)
        else:
            self.key("Backspace", 8)
        if enter:
            self.key("Enter", 13, "\r")

    def key(self, name: str, code: int, text: str = "") -> None:
        """Press a key."""
        about = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        self.page.send("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.page.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def upload(self, selector: str, path: Path) -> None:
        """Choose a file."""
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        time.sleep(0.5)  # a field that was just emptied is made anew
        root = self.page.send("DOM.getDocument")["root"]["nodeId"]
        node = self.page.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.page.send("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def drop(self, selector: str, path: Path) -> None:
        """Drag a file over an element and let it fall there."""
        self.until(f"!!document.querySelector({json.dumps(selector)})")
        x, y = self.page.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.scrollIntoView({{block: 'center'}}); "
            "const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.page.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def errors(self) -> list[str]:
        """What the console, the log and the script engine complained of; Gradio's own warnings are none."""
        return [said for said in self.page.complaints() if '"type": "warning"' not in said[:40]]

    def elsewhere(self, address: str) -> list[str]:
        """What was asked of anybody else."""
        own = (address, "blob:" + address.rstrip("/"))
        return [url for url in self.page.requests() if not url.startswith(own)]

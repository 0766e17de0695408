"""A picture of a page as a browser shows it, with what it drew in frames of other addresses.

`python browser.py URL FILE [--cookie NAME=VALUE] [--seconds S] [--script JS]` starts a headless
Chromium, speaks its debugging protocol (DevTools) to it, and writes a PNG. Chromium's own
`--screenshot` knows no cookies and waits for no frame. Only the standard library and aiohttp, which
Ray's dashboard brings: it runs on a host (`hosts`), where the page is.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import aiohttp

SIZE = {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}  # of the window, pixels
SETTLING = 2.0  # seconds from the script to the picture
START = 60.0  # seconds for the browser to listen
NAME = "chromium"


def browser(folder: Path) -> subprocess.Popen[bytes]:
    """A browser that writes its port to `folder`."""
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
    where = [f"--user-data-dir={folder}", "about:blank"]
    return subprocess.Popen([NAME, *words, *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


async def port(folder: Path) -> int:
    """Raises TimeoutError when the browser does not come up."""
    async with asyncio.timeout(START):
        while not (found := folder / "DevToolsActivePort").exists() or not found.read_text():
            await asyncio.sleep(0.2)
    return int(found.read_text().split()[0])


async def picture(listening: int, url: str, cookie: str, seconds: float, script: str) -> bytes:
    """The PNG of a page `seconds` after it was asked for, and after the script ran in it."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://127.0.0.1:{listening}/json/list") as answer:
            page = next(one for one in await answer.json() if one["type"] == "page")
        async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as line:
            numbers = itertools.count(1)

            async def call(method: str, **parameters: Any) -> dict[str, Any]:
                number = next(numbers)
                await line.send_json({"id": number, "method": method, "params": parameters})
                while (said := await line.receive_json()).get("id") != number:
                    pass  # an event
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']['message']}")
                return dict(said["result"])

            if cookie:
                name, _, value = cookie.partition("=")
                await call("Network.setCookie", name=name, value=value, url=url)
            await call("Emulation.setDeviceMetricsOverride", **SIZE)
            await call("Page.navigate", url=url)
            await asyncio.sleep(seconds)
            if script:
                await call("Runtime.evaluate", expression=script)
                await asyncio.sleep(SETTLING)
            return base64.b64decode((await call("Page.captureScreenshot", format="png"))["data"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("file", type=Path)
    parser.add_argument("--cookie", default="")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--script", default="")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    process = browser(folder)
    try:
        listening = asyncio.run(port(folder))
        shown = asyncio.run(picture(listening, asked.url, asked.cookie, asked.seconds, asked.script))
        asked.file.write_bytes(shown)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()

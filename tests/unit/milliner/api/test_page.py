"""The page in a real browser: where a key is asked for it asks its reader. Needs chromium on the PATH.

The browser opens a page of the same origin that has the device's page in a frame, handles it as a reader would and
tells this test what it came to.
"""

from __future__ import annotations

import asyncio
import json
import pathlib
import re
import shutil
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette import requests, responses
from starlette import types as asgi
from tests.unit.milliner.api.conftest import ANSWER, ByteTokenizer, ToyGenerator, until

from milliner import api
from milliner.api import app, keys, text_service
from milliner.core import clock
from milliner.telemetry import phases

BROWSER_S = 60.0  # of starting a browser on a busy machine; it takes a second or two
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
READER = """<!doctype html><iframe src="/"></iframe><script>
const page = document.querySelector("iframe"), told = [];
const $ = id => page.contentDocument.getElementById(id);
async function until(what) {
  while (!what()) await new Promise(again => setTimeout(again, 10));
}
async function enter(key) {
  await until(() => $("key-form") && !$("key-form").hidden && $("key-hint").textContent);
  told.push($("key-hint").textContent);
  $("key-hint").textContent = "";
  $("key").value = key;
  $("key-form").requestSubmit();
}
const met = () => $("where") && $("where").textContent.startsWith("toy");
async function read() {
  await enter("wrong");
  await enter("mine");
  await until(met);
  told.push($("key-form").hidden);
  $("form").requestSubmit();
  await until(() => $("go").textContent === "Generate" && $("answer").textContent);
  told.push($("answer").textContent);
  page.contentWindow.location.reload();
  await until(() => met() && !$("answer").textContent);
  told.push($("key-form").hidden);
  await fetch("/told", {method: "POST", body: JSON.stringify(told)});
}
read();
</script>"""


def test_every_phase_has_a_colour_of_its_own_on_the_page() -> None:
    text = (pathlib.Path(api.__file__).parent / "page.html").read_text(encoding="utf-8")
    (table,) = re.findall(r"const PHASES = \{(.*?)\};", text, flags=re.DOTALL)
    colours = dict(re.findall(r'(\w+): "(#\w+)"', table))
    assert set(colours) == set(phases.Phase)
    assert len(set(colours.values())) == len(colours)


class WithReader:
    """An application with the reader's page beside it, and what the reader told."""

    def __init__(self, inner: asgi.ASGIApp) -> None:
        self._inner = inner
        self.told: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        if scope["path"] == "/told":
            self.told.set_result(json.loads(await requests.Request(scope, receive).body()))
        if scope["path"] in ("/told", "/reader"):
            await responses.HTMLResponse(READER)(scope, receive, send)
            return
        await self._inner(scope, receive, send)


@pytest.fixture
async def device(tmp_path: pathlib.Path) -> AsyncIterator[tuple[str, WithReader]]:
    """Address of a device that asks for the key `mine`."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (folder / "one").write_text("mine")
    time = clock.LoopClock()
    model = text_service.ServedModel(name="toy", max_positions=400, strategy="Hat")
    service = text_service.TextService(generator=ToyGenerator(), codec=ByteTokenizer(), model=model, clock=time)
    around = WithReader(app.create_app(service, clock=time, api_keys=keys.KeyFolder(folder)))
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(around, log_level="warning", lifespan="off", access_log=False))
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started or serving.done())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", around
        server.should_exit = True
    listener.close()
    service.close()


async def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(
    device: tuple[str, WithReader], tmp_path: pathlib.Path
) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not on the PATH")
    address, around = device
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    null = asyncio.subprocess.DEVNULL
    browser = await asyncio.create_subprocess_exec(
        program, *FLAGS, profile, f"{address}/reader", stdout=null, stderr=null
    )
    try:
        async with asyncio.timeout(BROWSER_S):
            first, second, *rest = await around.told
    finally:
        browser.kill()
        await browser.wait()
    assert "asks for a key" in str(first)
    assert "not known" in str(second)
    assert rest == [True, ANSWER, True]

"""A world in the browser: frames of the static site, in headless Chromium, by number of threads."""

import functools
import http.server
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from genie.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
HELD_FRAMES = 8  # frames for which a key is held, as a player does
WARM_UP = 30  # frames; beside the first dozen, the browser still compiles
# Runs in a worker, as the site's own does: milliseconds of each frame of one session.
WORKER = """
import { openEngine, Session } from "./world.js";

async function times(numThreads, numFrames, heldFrames) {
  const info = await (await fetch("world/world.json")).json();
  const engine = await openEngine(info, () => {}, numThreads);
  const session = new Session(engine, 0n, info.sampling);
  const { width, height } = info;
  await session.read(new Uint8Array(width * height * 3).fill(128), width, height);
  const found = [];
  for (let frame = 0; frame < numFrames; frame++) {
    const began = performance.now();
    await session.step(Math.floor(frame / heldFrames) % info.names.length);
    found.push(performance.now() - began);
  }
  return { found, numThreads: engine.numThreads };
}

onmessage = ({ data }) => times(...data).then(postMessage, (error) => postMessage(error));
"""
ASK = """(given) => new Promise((resolve, reject) => {
    const worker = new Worker("timing.js", { type: "module" });
    worker.onmessage = ({ data }) => (data instanceof Error ? reject(data) : resolve(data));
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage(given);
})"""


def frames(world: str, threads: tuple[int, ...], num_frames: int) -> list[dict]:
    """Time of a frame, one after the other; each number of threads in a browser of its own.

    Raises:
        UserError: there is no Chromium, or no npm.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None or shutil.which("npm") is None:
        raise UserError("the section site needs Chromium and npm: apt-get install chromium npm")
    with _serving(world) as address:
        return [
            {"world": world, **_run(browser, address, number, num_frames)} for number in threads
        ]


def _run(browser: str, address: str, num_threads: int, num_frames: int) -> dict:
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page()
        page.goto(f"{address}/icon.svg")
        given = page.evaluate(ASK, [num_threads, WARM_UP + num_frames, HELD_FRAMES])
        opened.close()
    times = np.array(given["found"][WARM_UP:])
    p50, p99 = np.percentile(times, (50, 99))
    return {
        "engine": "onnxruntime-web",
        "threads": given["numThreads"],
        "slowest of the first, ms": max(given["found"][:WARM_UP]),
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "frames/s": 1000 / float(times.mean()),
    }


@contextmanager
def _serving(world: str) -> Iterator[str]:
    """Export the site and serve it with the headers that allow threads: its address."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "play", "--world", f"checkpoints/{world}"]
        subprocess.run(
            [*command, "--export-site", f"{folder}/site"],
            cwd=REPOSITORY,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        Path(folder, "site", "timing.js").write_text(WORKER)
        serve = functools.partial(_Isolated, directory=f"{folder}/site")
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()


class _Isolated(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""

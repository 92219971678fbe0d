"""A world as a static site, on a plain file server, played in headless Chromium."""

import base64
import functools
import http.server
import io
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from test_browser import (
    chromium,  # noqa: F401 - a fixture
    download,
    needs_browser,
    position,
    shown,
    wait_for,
)

from genie.legend import NAMES
from play.keymap import KeyMap
from play.recording import Recording
from play.site.export import smallest
from play.worlds import Library

REPOSITORY = Path(__file__).resolve().parent.parent
COINRUN, NINJA = (REPOSITORY / "checkpoints" / name for name in ("coinrun", "ninja"))
RIGHT, LEFT, UP = 7, 3, 0
# A worker without a page: takes these actions one by one and gives all frames, from the prompt on.
STEPS = """async (actions) => {
    const worker = new Worker("worker.js", {type: "module"});
    const send = (message) => worker.postMessage(JSON.stringify(message));
    let newest, hear;
    worker.onmessage = ({data}) => {
        if (typeof data !== "string") newest = new Uint8Array(data, 18);
        else if (JSON.parse(data).is === "state") hear(JSON.parse(data));
    };
    const frameOf = (isIt) => new Promise((resolve) => {
        hear = (state) => isIt(state) && resolve(btoa(String.fromCharCode(...newest)));
    });
    send({do: "pause"});
    const frames = [await frameOf((state) => state.paused)];
    for (const action of actions) {
        send({do: "keys", held: [String(action + 1)], at: 1});
        send({do: "step"});
        frames.push(await frameOf((state) => state.position === frames.length));
    }
    worker.terminate();
    return frames;
}"""

# Two sessions from one picture: the second is told a guess, right or wrong, before each action.
# Gives how many of their frames are equal, how many frames the second drew during each step, and
# how many it drew when no time was left or nothing was likely.
GUESSES = """async ([actions, guesses]) => {
    const { openEngine, Session } = await import("./world.js");
    const { exactly } = await import("./keymap.js");
    const { Playthrough } = await import("./playthrough.js");
    const info = await (await fetch("world/world.json")).json();
    const engine = await openEngine(info, () => {});
    const picture = new Uint8Array(info.width * info.height * 3).map((_, i) => (i * 31) % 251);
    const opened = async () => {
        const session = new Session(engine, 5n, info.sampling);
        await session.read(picture, info.width, info.height);
        return Playthrough.start(session, {steps: 2, temperature: 1});
    };
    const [plain, told] = [await opened(), await opened()];
    let [numEqual, numDrawn] = [0, 0];
    const draw = told.session.draw.bind(told.session);
    told.session.draw = (action) => (numDrawn++, draw(action));
    const drawnInSteps = [];
    for (const [i, action] of actions.entries()) {
        await told.prepare(guesses[i] === null ? null : exactly(guesses[i]), Infinity);
        const before = numDrawn;
        await told.step(action);
        drawnInSteps.push(numDrawn - before);
        await plain.step(action);
        numEqual += plain.frame.every((value, j) => value === told.frame[j]);
    }
    const before = numDrawn;
    await told.prepare(exactly(0), 0);
    await told.prepare(null, Infinity);
    return {numEqual, drawnInSteps, drawnInNoTime: numDrawn - before};
}"""

# A player without a page holds each of these keys for one tick, and rests after it as if there were
# plenty of time; then it goes a few ticks back and plays these again, step by step. Gives the
# actions and frames of both plays, the actions that the page is told, and how many frames were
# drawn during each tick.
KEYS = """async ([keys, numBack]) => {
    const { openEngine } = await import("./world.js");
    const { Player } = await import("./player.js");
    const { readPicture } = await import("./pictures.js");
    const info = await (await fetch("world/world.json")).json();
    const engine = await openEngine(info, () => {});
    const prompt = await (await fetch("prompts/0.png")).blob();
    const picture = await readPicture(prompt, info.width, info.height);
    const player = new Player(engine, info, picture, () => {});
    const { maskgit_steps: steps, temperature } = info.sampling;
    await player.start({steps, temperature});
    const { playthrough } = player;
    const { session } = playthrough;
    const draw = session.draw.bind(session);
    let numDrawn = 0;
    session.draw = (action) => (numDrawn++, draw(action));
    const hold = async (key, play) => {
        player.keys.press(key);
        await play();
        player.keys.release(key);
    };
    const played = () => ({
        actions: playthrough.actions,
        frames: playthrough.frames.map((frame) => btoa(String.fromCharCode(...frame))),
    });
    const [told, drawnInTicks] = [[], []];
    for (const key of keys) {
        const before = numDrawn;
        await hold(key, () => player.tick(player.due));
        told.push(player.action);
        drawnInTicks.push(numDrawn - before);
        await player.rest(-Infinity);
    }
    const first = played();
    player.rewind({on: true});
    for (let number = 0; number < numBack; number++) await player.tick(Infinity);
    player.rewind({on: false});
    for (const key of keys.slice(-numBack)) await hold(key, () => player.step());
    return {first, again: played(), told, drawnInTicks};
}"""


def export(*options: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "play", "--export-site", *map(str, options)]
    variables = os.environ | environment
    return subprocess.run(command, cwd=REPOSITORY, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site with the shipped world, in a folder of the folder that is served."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm: apt-get install npm")
    folder = tmp_path_factory.mktemp("served") / "games" / "world"
    done = export(folder)
    if "npm cannot download" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    assert "MB written to" in done.stdout
    return folder


@pytest.fixture(scope="module")
def wished(site: Path, address: str) -> str:
    """The address of a site with a world that has an action prior."""
    done = export(site.parent / "wished", "--world", NINJA)
    assert done.returncode == 0, done.stderr
    return address.replace("world", "wished")


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Redirects index.html to its folder, as some hosts do."""

    def do_GET(self):
        if self.path.endswith("/index.html"):
            self.send_response(308)
            self.send_header("Location", self.path.removesuffix("index.html"))
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site: Path):
    serve = functools.partial(Quiet, directory=site.parents[1])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/games/world/"
        server.shutdown()


@pytest.fixture
def page(chromium, address: str):  # noqa: F811
    """The site in a browser; it may neither complain nor ask for anything elsewhere."""
    complaints, elsewhere = [], []
    with chromium.new_context(accept_downloads=True) as context:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        # The page itself shows files from its memory, and sketches.
        kinds = (address, "blob:", "data:")
        context.on(
            "request", lambda asked: asked.url.startswith(kinds) or elsewhere.append(asked.url)
        )
        page.goto(address)
        page.wait_for_function("document.getElementById('screen').dataset.frame")
        yield page
    assert not complaints
    assert not elsewhere


def hold(page, key: str, until: int) -> None:
    page.keyboard.down(key)
    wait_for(lambda: position(page) >= until)
    page.keyboard.up(key)


def check_frames(pixels: list[bytes], wanted: list[np.ndarray]) -> None:
    """Of the page and of the desktop."""
    frames = [np.frombuffer(each, np.uint8).reshape(64, 64, 3) for each in pixels]
    errors = [
        np.abs(ours - frame.astype(int)).max() for ours, frame in zip(wanted, frames, strict=True)
    ]
    assert max(errors) <= 1, "float sums in another order may round a pixel differently"
    assert errors.count(0) > 0.7 * len(errors)


@needs_browser
def test_frames_are_those_of_the_desktop(chromium, address: str):  # noqa: F811
    actions = [RIGHT] * 8 + [UP] * 4 + [LEFT] * 6 + [1, 2, 4, 5, 6] * 2
    page = chromium.new_page()
    page.goto(f"{address}icon.svg")
    pixels = [base64.b64decode(frame) for frame in page.evaluate(STEPS, actions)]
    page.close()
    opening = Library(engine="onnxruntime").open(COINRUN, COINRUN / "prompts" / "1.png")
    session = opening.start(0, opening.settings)
    check_frames(pixels, [session.frame, *(session.step(action) for action in actions)])


@needs_browser
def test_wishes_mean_what_they_mean_on_the_desktop(chromium, wished: str):  # noqa: F811
    keys = ["right"] * 8 + ["up"] * 6 + ["none"] * 5 + ["left"] * 6 + ["3", "x", "a", "w"]
    page = chromium.new_page()
    page.goto(f"{wished}icon.svg")
    found = page.evaluate(KEYS, [keys, 12])
    page.close()
    opening = Library(engine="onnxruntime").open(NINJA, NINJA / "prompts" / "1.png")
    playthrough = opening.playthrough(0, opening.settings)
    presses = [opening.legend_keymap.choose([key]) for key in keys]
    for press in presses:
        playthrough.follow(press)
    wanted, frames = list(playthrough.actions), playthrough.frames
    own = [press.action for press in presses]
    assert sum(ours != theirs for ours, theirs in zip(wanted, own, strict=True)) > 3
    for played in (found["first"], found["again"]):
        assert played["actions"] == wanted
        check_frames([base64.b64decode(frame) for frame in played["frames"]], frames)
    assert found["told"] == own
    # A key that stays held is foreseen, whatever it comes to mean.
    for number in range(1, len(keys)):
        assert keys[number] != keys[number - 1] or found["drawnInTicks"][number] == 0


@needs_browser
def test_a_guess_saves_time_and_changes_no_frame(chromium, address: str):  # noqa: F811
    actions = [RIGHT, RIGHT, UP, UP, LEFT, RIGHT]
    guesses = [RIGHT, RIGHT, RIGHT, None, LEFT, UP]
    page = chromium.new_page()
    page.goto(f"{address}icon.svg")
    found = page.evaluate(GUESSES, [actions, guesses])
    page.close()
    assert found["numEqual"] == len(actions)
    assert found["drawnInSteps"] == [int(a != g) for a, g in zip(actions, guesses, strict=True)]
    assert found["drawnInNoTime"] == 0


@needs_browser
def test_keys_mean_what_they_mean_on_the_desktop(chromium, address: str):  # noqa: F811
    draw = random.Random(0)
    names = [*sorted(NAMES), "left_right", "1", "5", "9"]
    singles = [name for name in names if "_" not in name and name != "none"]
    cases = []
    for _ in range(300):
        bindings = {name: draw.randrange(6) for name in names if draw.random() < 0.4}
        cases.append((bindings, draw.sample(singles, draw.randrange(5))))
    page = chromium.new_page()
    page.goto(f"{address}icon.svg")
    chosen = page.evaluate(
        """async (cases) => {
            const { KeyMap } = await import("./keymap.js");
            return cases.map(([bindings, held]) => new KeyMap(bindings, 6).choose(held));
        }""",
        cases,
    )
    page.close()
    for (bindings, held), ours in zip(cases, chosen, strict=True):
        press = KeyMap(num_actions=6, bindings=bindings, has_legend=True).choose(held)
        assert ours == (press._asdict() if press else None), (bindings, held)


@needs_browser
def test_keys_time_and_settings(page):
    assert page.evaluate("crossOriginIsolated"), "threads need it"
    assert not page.is_visible("[data-save=mp4]")
    page.keyboard.press("p")
    page.keyboard.press("r")
    wait_for(lambda: "paused" in page.inner_text("#state") and position(page) == 0)
    first = shown(page)
    page.click("#bookmark")
    page.keyboard.press("p")
    page.keyboard.down("ArrowRight")
    wait_for(lambda: "active" in page.get_attribute(f"[data-action='{RIGHT}']", "class"))
    wait_for(lambda: position(page) >= 16)
    page.locator("#temperature").evaluate("(it) => { it.value = 0; it.onchange(); }")
    wait_for(lambda: page.inner_text("#temperature-now") == "0")
    page.keyboard.up("ArrowRight")
    page.keyboard.press("p")
    page.keyboard.down("Backspace")
    wait_for(lambda: (shown(page) == first).all())
    page.keyboard.up("Backspace")
    page.keyboard.press(".")
    wait_for(lambda: (shown(page) != first).any())
    page.click("#back")
    wait_for(lambda: (shown(page) == first).all())
    page.keyboard.press("Shift+R")
    wait_for(lambda: "seed 1" in page.inner_text("#state"))


@needs_browser
def test_a_host_may_redirect_and_threads_can_be_chosen(page, address: str):
    assert page.evaluate("navigator.serviceWorker.controller !== null")
    page.goto(f"{address}index.html")
    for asked in ("1 thread,", "2 threads,"):
        page.goto(f"{address}?threads={asked[0]}")
        wait_for(lambda asked=asked: asked in page.inner_text("#world"))


@needs_browser
def test_a_sketch_is_played_and_saved(page, tmp_path: Path):
    prompt = shown(page)
    page.click("#draw")
    paper = page.locator("#paper").bounding_box()
    page.mouse.move(paper["x"] + 20, paper["y"] + paper["height"] * 0.7)
    page.mouse.down()
    page.mouse.move(paper["x"] + paper["width"] - 20, paper["y"] + paper["height"] * 0.7, steps=8)
    page.mouse.up()
    page.click("#go")
    wait_for(lambda: (shown(page) != prompt).any() and position(page) < 16)
    hold(page, "ArrowLeft", until=16)
    page.keyboard.press("p")
    wait_for(lambda: "paused" in page.inner_text("#state"))
    with Image.open(io.BytesIO(download(page, "gif"))) as film:
        frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == position(page) + 1
    error = frames[-1][::4, ::4].astype(int) - shown(page)
    assert np.abs(error).mean() < 3, "a GIF has 256 colours, no more"
    with Image.open(io.BytesIO(download(page, "png"))) as strip:
        assert strip.size == (12 * 256, 256)
    path = tmp_path / "play.json"
    path.write_bytes(download(page, "json"))
    recording = Recording.load(path)
    assert recording.engine == "onnxruntime-web" and len(recording.actions) == position(page)
    command = [sys.executable, "-m", "play", "--replay", path, "--export", tmp_path / "play.gif"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 or "recorded in a browser" in done.stdout, done.stderr


@needs_browser
def test_what_if_and_pictures(page, tmp_path: Path):
    page.keyboard.press("Tab")
    panels = page.locator("#futures button")
    wait_for(lambda: page.is_visible("#what-if") and panels.count() == 8)
    page.keyboard.press("1")
    wait_for(lambda: "15 frames on, up" in page.inner_text("#notice"))
    assert not page.is_visible("#what-if")
    Image.new("RGB", (300, 200), (200, 30, 90)).save(tmp_path / "red.png")
    before = shown(page)
    page.set_input_files("#file", tmp_path / "red.png")
    wait_for(lambda: position(page) < 16 and (shown(page) != before).mean() > 0.7)
    (tmp_path / "film.gif").write_bytes(b"GIF89a, but no picture")
    page.set_input_files("#file", tmp_path / "film.gif")
    wait_for(lambda: "takes images, but no videos" in page.inner_text("#notice"))


def test_weights_are_halved_only_if_that_loses_nothing():
    rounded = np.array([1.5, -(2.0**-24), 65504.0], dtype=np.float32)
    for exact in (rounded.astype(np.float16), rounded, rounded + np.float32(0.01), rounded * 2):
        stored = smallest(exact)
        assert (stored == exact).all()
        assert stored.dtype == (np.float16 if exact[0] == 1.5 else np.float32)


def refuse(*options: object, **environment: str) -> str:
    done = export(*options, **environment)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    return done.stderr


def test_no_other_file_is_harmed(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    assert "is not empty" in refuse(tmp_path)
    assert "not a folder" in refuse(tmp_path / "mine.txt" / "site")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_what_is_missing_is_told(tmp_path: Path):
    shutil.copytree(COINRUN, tmp_path / "bare")
    (tmp_path / "bare" / "graphs.json").unlink()
    told = refuse(tmp_path / "site", "--world", tmp_path / "bare")
    assert "python -m train.graphs" in told
    nowhere = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PATH": str(tmp_path)}
    assert "install Node.js" in refuse(tmp_path / "site", **nowhere)
    assert not (tmp_path / "site").exists()
    assert "--headless does not apply" in refuse(tmp_path / "site", "--headless")

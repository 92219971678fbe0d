"""The page, driven for real in headless Chromium, and the server under a hail of nonsense."""

import asyncio
import io
import json
import random
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import uvicorn
from conftest import moving_square
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence
from square import KEYS, START, MovingSquare, make_opening
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from genie import video
from genie.errors import UserError
from genie.world import World
from play.browser import server, wire
from play.browser.page_player import IDLE, POLICY, TRY_LATER, PagePlayer, Workers
from play.recording import Recording
from play.worlds import Library

REPOSITORY = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
# Chromium looks for updates and much else at every start, unless it is told not to.
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SECONDS = 30.0

needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs a browser: apt-get install chromium"
)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        return probe.getsockname()[1]


@contextmanager
def serving(folder: Path, *options: object):
    """A server as the command line starts it: its port and process."""
    port = free_port()
    command = [sys.executable, "-u", "-m", "play", "--browser", "--world", folder, "--port", port]
    with subprocess.Popen(
        [str(part) for part in (*command, *options)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            said = [process.stdout.readline(), process.stdout.readline()]
            assert f"http://127.0.0.1:{port}" in said[1], said
            wait_for(lambda: answers(port))
            yield port, process
        finally:
            process.terminate()


def answers(port: int) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=1)):
            return True
    except OSError:
        return False


def wait_for(condition, seconds: float = SECONDS):
    """Gives what the condition gives once that is true."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(0.02)
    pytest.fail(f"not within {seconds} s")


@pytest.fixture(scope="module")
def world_folder(tiny_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world with two prompts and a legend that lets it wait while no key is held."""
    folder = tmp_path_factory.mktemp("served") / "tiny"
    tiny_world.save_pretrained(folder)
    (folder / "prompts").mkdir()
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "prompts" / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def port(world_folder: Path):
    with serving(world_folder) as (port, _):
        yield port


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium, port):
    """Opens pages, each of a person of its own; at the end none may have complained."""
    complaints = []
    with ExitStack() as people:

        def opened(**options):
            context = people.enter_context(chromium.new_context(accept_downloads=True, **options))
            page = context.new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(f"http://127.0.0.1:{port}/")
            wait_for(lambda: shown(page) is not None)
            return page

        yield opened
    assert not complaints


def shown(page, name: str = "screen") -> np.ndarray | None:
    """The picture on the page, uint8 (h, w, 3); None before the first."""
    values = page.evaluate(
        """(name) => {
            const canvas = document.getElementById(name);
            if (!document.getElementById("screen").dataset.frame) return null;
            const pen = canvas.getContext("2d");
            const picture = pen.getImageData(0, 0, canvas.width, canvas.height);
            return [canvas.height, canvas.width, ...picture.data];
        }""",
        name,
    )
    if values is None:
        return None
    height, width, *pixels = values
    return np.array(pixels, dtype=np.uint8).reshape(height, width, 4)[..., :3]


def position(page) -> int:
    return int(page.inner_text("#state").split("frame ")[1].split()[0])


def settled(page) -> np.ndarray:
    """The picture once it has stopped changing."""
    before = None
    for _ in range(50):
        now = shown(page)
        if before is not None and (now == before).all():
            return now
        before = now
        time.sleep(0.3)
    pytest.fail("the picture does not come to rest")


def download(page, kind: str) -> bytes:
    with page.expect_download() as waiting:
        page.click(f"[data-save={kind}]")
    assert waiting.value.suggested_filename == f"genie.{kind}"
    return Path(waiting.value.path()).read_bytes()


@needs_browser
def test_keys_play_the_world_and_the_recording_is_that_play(
    open_page, world_folder: Path, tmp_path: Path
):
    page = open_page()
    first = settled(page)
    page.keyboard.down("ArrowRight")
    wait_for(lambda: (shown(page) != first).any())
    assert "active" in page.get_attribute("[data-action='1']", "class"), "right is action 1"
    page.keyboard.up("ArrowRight")
    resting = settled(page)
    wait_for(lambda: "active" not in page.get_attribute("[data-action='1']", "class"))
    page.keyboard.press("3")
    wait_for(lambda: (shown(page) != resting).any())
    page.locator("[data-action='4']").click()
    settled(page)
    (tmp_path / "play.json").write_bytes(download(page, "json"))
    actions = Recording.load(tmp_path / "play.json").actions
    assert set(actions[:-2]) == {1} and actions[-2:] == (2, 4), "held, tapped, clicked"
    command = [sys.executable, "-m", "play", "--replay", tmp_path / "play.json"]
    options = ["--world", world_folder, "--export", tmp_path / "play.gif"]
    replayed = subprocess.run(
        [str(part) for part in (*command, *options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert replayed.returncode == 0, replayed.stderr
    assert "every frame is the recorded one" in replayed.stdout
    with Image.open(io.BytesIO(download(page, "gif"))) as film:
        frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(frames) == len(actions) + 1
    error = frames[-1][::5, ::5].astype(int) - settled(page)
    assert np.abs(error).mean() < 3, "a GIF has 256 colours, no more"
    assert download(page, "mp4")[4:8] == b"ftyp"


@needs_browser
def test_pause_step_rewind_restart_and_bookmark(open_page):
    page = open_page()
    first = settled(page)
    page.keyboard.down("d")
    wait_for(lambda: position(page) >= 16)
    page.keyboard.up("d")
    here = settled(page)
    page.click("#bookmark")
    page.keyboard.down("Backspace")
    wait_for(lambda: (shown(page) == first).all())
    page.keyboard.up("Backspace")
    page.click("#back")
    wait_for(lambda: (shown(page) == here).all())
    page.keyboard.press("p")
    wait_for(lambda: "paused" in page.inner_text("#state"))
    before = position(page)
    page.keyboard.down("d")
    time.sleep(0.5)
    assert (settled(page) == here).all(), "paused, though a key is held"
    page.keyboard.press(".")
    wait_for(lambda: position(page) == before + 1)
    page.keyboard.up("d")
    page.keyboard.press("r")
    wait_for(lambda: (shown(page) == first).all() and position(page) == 0)


@needs_browser
def test_a_sketch_an_upload_and_a_paste_are_played(open_page, tmp_path: Path):
    page = open_page()
    prompt = settled(page)
    page.click("#draw")
    paper = page.locator("#paper").bounding_box()
    page.mouse.move(paper["x"] + 20, paper["y"] + paper["height"] / 2)
    page.mouse.down()
    page.mouse.move(paper["x"] + paper["width"] - 20, paper["y"] + 30, steps=8)
    page.mouse.up()
    page.click("#go")
    wait_for(lambda: (shown(page) != prompt).any())
    sketch = settled(page)
    page.keyboard.down("ArrowLeft")
    wait_for(lambda: (shown(page) != sketch).any())
    page.keyboard.up("ArrowLeft")
    Image.new("RGB", (300, 200), (200, 30, 90)).save(tmp_path / "red.png")
    before = settled(page)
    page.set_input_files("#file", tmp_path / "red.png")
    wait_for(lambda: (shown(page) != before).any() and position(page) == 0)
    before = settled(page)
    page.evaluate(
        """async () => {
            const canvas = new OffscreenCanvas(60, 40);
            const pen = canvas.getContext("2d");
            for (let i = 0; i < 2400; i++) {
                pen.fillStyle = `rgb(${i % 251} ${(7 * i) % 253} ${(i * i) % 247})`;
                pen.fillRect(i % 60, Math.floor(i / 60), 1, 1);
            }
            const blob = await canvas.convertToBlob();
            const data = new DataTransfer();
            data.items.add(new File([blob], "pasted.png", {type: "image/png"}));
            dispatchEvent(new ClipboardEvent("paste", {clipboardData: data}));
        }"""
    )
    wait_for(lambda: (shown(page) != before).any())
    page.locator("#prompts button").nth(1).click()
    wait_for(lambda: (shown(page) != prompt).any())
    page.locator("#prompts button").nth(0).click()
    wait_for(lambda: (shown(page) == prompt).all())


@needs_browser
def test_two_players_see_only_their_own_world(open_page):
    one, other = open_page(), open_page()
    start = settled(other)
    one.keyboard.down("ArrowRight")
    wait_for(lambda: position(one) >= 16)
    assert (shown(other) == start).all(), "the other one's world moved"
    other.keyboard.down("ArrowLeft")
    wait_for(lambda: position(other) >= 16 and position(one) >= 32)
    one.keyboard.up("ArrowRight")
    other.keyboard.up("ArrowLeft")
    assert (settled(one) != settled(other)).any()


@needs_browser
def test_keys_are_bound_and_remembered_and_settings_are_told(open_page):
    page = open_page()
    page.click("#bind")
    wait_for(lambda: page.inner_text("#notice"))
    page.keyboard.press("Escape")
    wait_for(lambda: not page.inner_text("#notice"))
    page.click("#bind")
    page.locator("[data-action='3']").click()
    page.keyboard.press("r")
    wait_for(lambda: "taken" in page.inner_text("#notice"))
    assert "R" not in page.inner_text("[data-action='3']").split()
    page.click("#bind")
    page.locator("[data-action='3']").click()
    page.keyboard.press("k")
    wait_for(lambda: "K" in page.inner_text("[data-action='3']"))
    page.reload()
    wait_for(lambda: "K" in page.inner_text("[data-action='3']"))
    before = settled(page)
    page.keyboard.down("k")
    wait_for(lambda: (shown(page) != before).any())
    assert "active" in page.get_attribute("[data-action='3']", "class")
    page.keyboard.up("k")
    page.click("#unbind")
    assert "K" not in page.inner_text("[data-action='3']")
    page.locator("#temperature").fill("1.7")
    page.locator("#temperature").dispatch_event("change")
    page.click("#restart")
    wait_for(lambda: page.input_value("#temperature") == "1.7" and position(page) == 0)


@needs_browser
def test_what_if_shows_each_future_and_goes_to_one(open_page, tmp_path: Path):
    page = open_page()
    before = settled(page)
    panels = page.locator("#futures button")
    for leave in ("Tab", "Escape"):
        page.locator("#screen").focus()
        page.keyboard.press("Tab")
        wait_for(lambda: panels.count() == 5 and page.locator("#what-if").is_visible())
        page.keyboard.press(leave)
        wait_for(lambda: not page.locator("#what-if").is_visible())
    assert (settled(page) == before).all() and position(page) == 0, "looking ahead moves nothing"
    page.click("#foresee")
    wait_for(lambda: page.locator("#what-if").is_visible())
    page.keyboard.press("3")
    wait_for(lambda: position(page) == 12)
    assert not page.locator("#what-if").is_visible()
    page.click("#foresee")
    wait_for(lambda: page.locator("#what-if").is_visible())
    panels.nth(1).click()
    wait_for(lambda: position(page) == 24)
    (tmp_path / "play.json").write_bytes(download(page, "json"))
    assert Recording.load(tmp_path / "play.json").actions == (2,) * 12 + (1,) * 12


@needs_browser
def test_a_video_goes_on_and_is_shown_beside(open_page, tmp_path: Path):
    frames, _ = moving_square(24, seed=3)
    video.write(tmp_path / "film.mp4", list(frames), fps=12.0, lossless=True)
    page = open_page()
    prompt = settled(page)
    assert not page.locator("#beside").is_visible(), "a picture has nothing to show beside"
    page.set_input_files("#file", tmp_path / "film.mp4")
    wait_for(lambda: page.locator("#beside").is_visible())
    assert (settled(page) != prompt).any()
    page.keyboard.press("v")
    wait_for(lambda: page.locator("#real").is_visible())
    assert (shown(page, "real") == frames[7]).all(), "the world has seen eight frames"
    page.keyboard.press("1")
    wait_for(lambda: (shown(page, "real") == frames[8]).all())
    page.keyboard.press("v")
    wait_for(lambda: not page.locator("#real").is_visible())


@needs_browser
def test_fingers_play(open_page):
    page = open_page(has_touch=True, viewport={"width": 420, "height": 800})
    before = settled(page)
    page.locator("[data-action='2']").tap()
    wait_for(lambda: (shown(page) != before).any())
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= 420, "nothing sticks out sideways"


# --- without a browser ---------------------------------------------------------------------------


def listen(connection, seconds: float = SECONDS) -> bytes | dict:
    message = connection.recv(timeout=seconds)
    return json.loads(message) if isinstance(message, str) else message


def until(connection, is_wanted, seconds: float = SECONDS):
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        message = listen(connection)
        if is_wanted(message):
            return message
    pytest.fail("it did not come")


def is_frame(message) -> bool:
    return isinstance(message, bytes) and message[0] == wire.FRAME


def says(words: str):
    return lambda message: isinstance(message, dict) and words in message.get("text", "")


def address(port: int) -> str:
    return f"ws://127.0.0.1:{port}/play"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "elsewhere.example", "Origin": "http://elsewhere.example"}, 403),
        ({"Host": "127.0.0.1.elsewhere.example"}, 403),
        ({}, 200),
    ],
)
def test_pages_from_elsewhere_are_refused(port: int, headers: dict[str, str], status: int):
    lines = {"Host": f"127.0.0.1:{port}", "Connection": "close"} | headers
    request = "GET / HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items()) + "\r\n"
    with closing(socket.create_connection(("127.0.0.1", port))) as raw:
        raw.sendall(request.encode())
        assert raw.recv(100).split()[1] == str(status).encode()


def test_a_socket_from_elsewhere_is_refused(port: int):
    with pytest.raises(InvalidStatus) as refused, connect(address(port), origin="http://evil.test"):
        pass
    assert refused.value.response.status_code == 403
    with connect(address(port), origin=f"http://127.0.0.1:{port}") as own:
        assert listen(own)["is"] == "facts"


def answer(app, host: str, origin: str | None) -> tuple[int, str]:
    """Status and text of what the application says to a request for the page."""
    headers = [(b"host", host.encode())] + ([(b"origin", origin.encode())] if origin else [])
    scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
    sent: list[dict] = []

    async def ask() -> None:
        async def send(message: dict) -> None:
            sent.append(message)

        await app(scope, None, send)

    with ThreadPoolExecutor() as elsewhere:  # the browser's driver runs a loop in this thread
        elsewhere.submit(asyncio.run, ask()).result()
    return sent[0]["status"], sent[1].get("body", b"").decode()


async def let_in(scope, receive, send):
    await PlainTextResponse("in")(scope, receive, send)


OURS, THEIRS = "play.example.org", "evil.example.org"


@pytest.mark.parametrize(
    ("host", "origin", "is_let_in"),
    [
        (OURS, None, True),
        (f"{OURS}:8443", f"https://{OURS}:8443", True),
        ("127.0.0.1:8000", f"https://{OURS}", True),
        ("127.0.0.1:8000", None, True),
        (THEIRS, None, False),
        (f"{OURS}.{THEIRS}", None, False),
        (OURS, f"https://{THEIRS}", False),
        ("127.0.0.1:8000", f"https://{OURS}.{THEIRS}", False),
        ("127.0.0.1:8000", "null", False),
    ],
)
def test_a_proxys_name_is_let_in_where_it_is_allowed(host: str, origin: str, is_let_in: bool):
    said: list[str] = []
    guard = server.OwnPagesOnly(let_in, server.LOOPBACK, frozenset({OURS}), said.append)
    assert (answer(guard, host, origin)[0] == 200) == is_let_in
    assert bool(said) == (not is_let_in and origin != "null")


def test_who_is_refused_is_told_how_to_be_let_in_and_the_terminal_once():
    said: list[str] = []
    guard = server.OwnPagesOnly(let_in, server.LOOPBACK, say=said.append)
    for _ in range(3):
        status, text = answer(guard, OURS, None)
        assert status == 403 and f"--allow {OURS}" in text
    assert len(said) == 1 and f"--allow {OURS}" in said[0]
    assert "--allow" not in answer(guard, "a<script>b", None)[1]
    for number in range(100):
        answer(guard, f"host-{number}.example.org", None)
    assert len(said) == server.MOST_TOLD


def test_only_the_pages_own_files_are_served(port: int):
    for path in ("/server.py", "/..%2fserver.py", "/../server.py", "/prompts/99.png", "/x.html"):
        with closing(socket.create_connection(("127.0.0.1", port))) as raw:
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
            assert raw.recv(100).split()[1] == b"404", path


def test_a_world_waits_for_a_page_that_does_not_keep_up(port: int):
    with connect(address(port)) as slow:
        slow.send(json.dumps({"do": "keys", "held": ["right"], "at": 1}))
        frames = 0
        with pytest.raises(TimeoutError):
            while True:
                frames += is_frame(listen(slow, seconds=2))
        assert frames <= 8
        slow.send(json.dumps({"do": "seen", "frame": frames}))
        until(slow, is_frame)


@pytest.fixture
def room(world_folder: Path):
    """A server in this process with room for two, who may rest for a second: its port."""
    library = Library()
    prompts = [library.open(world_folder, world_folder / "prompts" / "1.png")]
    room = server.Room(library, world_folder, prompts, max_players=2, idle_seconds=1.0)
    with running(server.make_app(room, "127.0.0.1")) as port:
        yield port


@contextmanager
def running(app):
    """Serve an application from a thread of this process: its port."""
    serving = uvicorn.Server(server.make_config(app))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        wait_for(lambda: serving.started)
        yield listener.getsockname()[1]
        serving.should_exit = True
        thread.join(timeout=SECONDS)
        assert not thread.is_alive(), "the server does not end"


@needs_browser
def test_the_page_plays_behind_a_prefix_of_a_proxy(chromium, world_folder: Path):
    """As Jupyter and code-server show a port: /proxy/8000/."""
    library = Library()
    prompts = [library.open(world_folder, world_folder / "prompts" / "1.png")]
    room = server.Room(library, world_folder, prompts, max_players=2)
    app = server.make_app(room, "127.0.0.1")
    behind = Starlette(routes=[Mount("/user/me/proxy/8000", app)])
    with running(behind) as port, chromium.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/user/me/proxy/8000/")
        wait_for(lambda: shown(page) is not None)
        page.keyboard.down("ArrowRight")
        wait_for(lambda: position(page) > 2)
        page.keyboard.up("ArrowRight")


def test_places_are_limited_and_come_free(room: int):
    with connect(address(room)) as one, connect(address(room)) as two:
        assert listen(one)["is"] == listen(two)["is"] == "facts"
        with connect(address(room)) as three, pytest.raises(ConnectionClosed) as closed:
            listen(three)
        assert closed.value.rcvd.code == TRY_LATER and "try again" in closed.value.rcvd.reason
        two.close()
        wait_for(lambda: is_let_in(room))


def is_let_in(port: int) -> bool:
    with connect(address(port)) as connection:
        try:
            return listen(connection)["is"] == "facts"
        except ConnectionClosed:
            return False


def test_who_rests_too_long_is_sent_away_and_who_plays_is_not(room: int):
    with connect(address(room)) as busy, connect(address(room)) as lazy:
        for _ in range(8):
            busy.send(json.dumps({"do": "pause"}))
            time.sleep(0.25)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                listen(lazy)
        assert closed.value.rcvd.code == IDLE
        busy.send(json.dumps({"do": "restart"}))
        until(busy, is_frame)


def test_a_host_that_is_none_is_said_in_one_line(world_folder: Path):
    for host in ("nonsense..host", "203.0.113.9"):
        with pytest.raises(UserError, match="give another --host"):
            server.serve(Library(), world_folder, None, host=host, port=free_port(), max_players=1)


def test_a_taken_port_is_said_in_one_line(world_folder: Path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "play", "--browser", "--world", world_folder]
        ended = subprocess.run(
            [*map(str, command), "--port", str(port)],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.startswith(f"error: cannot listen on 127.0.0.1:{port}")
    assert ended.stderr.count("\n") == 1


class Nowhere:
    """The line to a page that takes everything."""

    def __init__(self):
        self.sent = 0

    async def send_json(self, message):
        self.sent += 1

    async def send_bytes(self, content):
        self.sent += 1


def test_a_player_ends_whatever_comes_with_the_end(world_folder: Path):
    """A wake-up and the end in one moment, as when somebody sends too much: no place is kept."""
    opening = Library().open(world_folder, world_folder / "prompts" / "1.png")

    async def play_and_end() -> None:
        line, workers = Nowhere(), Workers(ThreadPoolExecutor(1), ThreadPoolExecutor(1))
        player = PagePlayer(line, workers, [opening], lambda content: opening, idle_seconds=60)
        playing = asyncio.ensure_future(player.play())
        while line.sent < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # now it sleeps until something comes
        player.take(wire.parse('{"do": "pause"}'))
        await asyncio.sleep(0)  # the wake-up is on its way
        playing.cancel()
        done, _ = await asyncio.wait([playing], timeout=5)
        assert done and playing.cancelled(), "it plays on for nobody"

    thread = threading.Thread(target=lambda: outcome.append(run(play_and_end())))
    outcome: list[BaseException | None] = []
    thread.start()
    thread.join()
    assert outcome == [None]


def run(coroutine) -> BaseException | None:
    """What it raises, in a thread of its own: the browser's driver has a loop in this one."""
    try:
        asyncio.run(coroutine)
    except BaseException as error:
        return error
    return None


def test_the_picture_that_a_held_key_will_want_is_made_ahead():
    """Just once a step, and only after the step's own picture is on its way."""

    async def play() -> tuple[int, list[int]]:
        line, workers = Nowhere(), Workers(ThreadPoolExecutor(1), ThreadPoolExecutor(1))
        games: list[MovingSquare] = []

        def start(*settings) -> MovingSquare:
            games.append(MovingSquare(*settings))
            return games[-1]

        opening = make_opening(fps=50.0, start=start)
        player = PagePlayer(line, workers, [opening], lambda content: opening, idle_seconds=60)
        playing = asyncio.ensure_future(player.play())
        player.take(wire.parse('{"do": "keys", "held": ["right"], "at": 1}'))
        while len(games) < 1 or len(games[0].prepared) < 5:
            player.take(wire.parse('{"do": "seen", "frame": 1000}'))
            await asyncio.sleep(0.005)
        playing.cancel()
        await asyncio.wait([playing])
        return games[0].x - START[0], games[0].prepared

    with ThreadPoolExecutor() as elsewhere:  # the browser's driver runs a loop in this thread
        steps, prepared = elsewhere.submit(asyncio.run, play()).result(timeout=SECONDS)
    assert set(prepared) == {KEYS["right"]} and steps - 1 <= len(prepared) <= steps


# --- nonsense ------------------------------------------------------------------------------------

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.one_of(st.text(), anything.map(json.dumps)))
def test_nonsense_is_refused_in_one_line(text: str):
    try:
        wire.parse(text)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 200


@given(st.sampled_from(sorted(wire.VERBS)), st.data())
def test_a_verb_takes_only_values_of_its_kind(verb: str, data: st.DataObject):
    wanted = wire.VERBS[verb]
    values = {name: data.draw(anything, label=name) for name in wanted}
    try:
        command = wire.parse(json.dumps({"do": verb, **values}))
    except UserError:
        return
    assert command.verb == verb and command.values.keys() == wanted.keys()
    assert all(type(command.values[name]) is kind for name, kind in wanted.items())


def bomb() -> bytes:
    """A PNG of 30,000 x 30,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(2**24), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


def hostile_messages(seed: int) -> list[str | bytes]:
    dice = random.Random(seed)
    values = [None, True, -1, 2**70, 1e308, "x", "x" * 500, [], ["left"] * 99, [[]], {"a": {}}, [0]]
    small = io.BytesIO()
    Image.new("RGB", (4, 4)).save(small, format="PNG")
    torn = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(torn, format="JPEG")
    messages: list[str | bytes] = []
    for _ in range(450):
        verb = dice.choice([*wire.VERBS, "eval", "", "__init__", "open_picture"])
        names = dice.sample(["held", "at", "on", "as", "number", "steps", "temperature"], 3)
        message = {"do": verb, **{name: dice.choice(values) for name in names}}
        wanted = wire.VERBS.get(verb, {})
        if dice.random() < 0.6:
            message = {"do": verb, **{name: dice.choice(values) for name in wanted}}
        messages.append(json.dumps(message))
    messages += [
        "[" * 1500,
        "{",
        "",
        "null",
        "\x00",
        '{"do":"keys","held":NaN,"at":Infinity}',
        "é" * 2000,
    ]
    messages += [dice.randbytes(dice.randrange(0, 3000)) for _ in range(60)]
    messages += [bomb(), small.getvalue(), torn.getvalue()[:900], b"GIF89a" + b"\xff" * 500, b""]
    dice.shuffle(messages)
    return messages


def an_mp4(num_frames: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        video.write(path, [np.zeros((16, 16, 3), np.uint8)] * num_frames, fps=30.0)
        return path.read_bytes()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: b"#EXTM3U\n#EXTINF:1,\n/etc/hostname\n", "not a readable image"),
        (lambda: b"ffconcat version 1.0\nfile /etc/hostname\n", "not a readable image"),
        (lambda: an_mp4(40)[:300], "the file"),
        (lambda: an_mp4(3001), "the file has more than 3000 frames"),
        (lambda: b"GIF89a" + b"\xff" * 500, "the file"),
    ],
)
def test_files_that_are_no_short_videos_are_refused(port: int, content, why: str):
    with connect(address(port)) as connection:
        connection.send(content())
        notice = until(connection, lambda m: isinstance(m, dict) and m["is"] == "notice")
        assert why in notice["text"] and "/tmp" not in notice["text"], notice


PLACES_BACK = 60.0  # seconds; whoever hangs half-closed keeps a place for 20 s at least
FEW = 20  # so few that no limit is reached


def misbehave(port: int, messages: list[str | bytes]) -> None:
    """Send all, a few on each connection: the server hangs up on whoever overdoes it."""
    for start in range(0, len(messages), FEW):
        with connect(address(port), max_size=None, close_timeout=1) as connection:
            for message in messages[start : start + FEW]:
                connection.send(message)
            # The last is refused in words of its own, so all before it have been dealt with.
            connection.send('{"do": "tune", "steps": 99, "temperature": 0}')
            until(connection, says("passes and a temperature"))


def half_close(port: int) -> None:
    """Sockets that break off in the middle of something."""
    request = f"GET /play HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
    key = "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    key += f"Sec-WebSocket-Key: {'A' * 22}==\r\n\r\n"
    for opening, rest in ((request, b""), (request + key, b"\x81\xfe"), ("GET", b"\x00" * 9000)):
        raw = socket.create_connection(("127.0.0.1", port))
        raw.sendall(opening.encode() + rest)
        raw.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
        raw.close()


def burst(port: int, count: int) -> None:
    with connect(address(port)) as connection, pytest.raises(ConnectionClosed) as closed:
        for _ in range(count):
            connection.send('{"do":"restart"}')
        while True:
            listen(connection)
    assert closed.value.rcvd is None or closed.value.rcvd.code == POLICY


def test_a_thousand_hostile_messages_leave_the_server_as_it_was(world_folder: Path):
    with serving(world_folder, "--players", 3) as (port, process):
        watched = psutil.Process(process.pid)

        def round_of_nonsense(seed: int) -> None:
            misbehave(port, hostile_messages(seed))
            half_close(port)
            burst(port, 10_000)
            with connect(address(port)) as connection, pytest.raises(ConnectionClosed):
                connection.send(bytes(wire.MAX_UPLOAD + 1))
                while True:
                    listen(connection)

        round_of_nonsense(0)  # what is loaded on first use is no leak
        wait_for(lambda: plays(port), PLACES_BACK)
        before = watched.memory_info().rss
        round_of_nonsense(1)
        wait_for(lambda: plays(port), PLACES_BACK)
        grown = (watched.memory_info().rss - before) / 2**20
        assert grown < 40, f"{grown:.0f} MiB more after {len(hostile_messages(1))} messages"
        assert process.poll() is None
        process.terminate()
        said = process.stdout.read()
    assert "Traceback" not in said, said


def plays(port: int) -> bool:
    """Whether somebody who means well is let in, and gets frames."""
    try:
        with connect(address(port)) as connection:
            connection.send(json.dumps({"do": "keys", "held": ["right"], "at": 7.5}))
            answer = until(
                connection, lambda m: is_frame(m) and wire.HEADER.unpack_from(m)[5] == 7.5
            )
            return wire.HEADER.unpack_from(answer)[1] == 1
    except ConnectionClosed:
        return False


def test_a_frame_tells_the_clock_of_the_keys_that_it_obeys(port: int):
    """Not of keys that came while it was drawn."""
    assert [plays(port) for _ in range(8)] == [True] * 8


def test_frames_and_files_go_over_the_wire_whole():
    picture = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    sent = wire.frame(picture, action=None, number=70_000, at=1.25)
    kind, action, width, height, number, at = wire.HEADER.unpack_from(sent)
    assert (kind, action, width, height, number, at) == (wire.FRAME, 255, 5, 3, 70_000, 1.25)
    assert sent[wire.HEADER.size :] == picture.tobytes()
    sent = wire.file("genie.gif", b"content")
    assert sent == bytes([wire.FILE, 9]) + b"genie.gif" + b"content"


def test_a_budget_refills():
    budget = server.Budget()
    with pytest.raises(server.Closed):
        for _ in range(1000):
            budget.spend(1)
    other = server.Budget()
    other._at -= 1000
    for _ in range(int(server.MESSAGES_AT_ONCE)):
        other.spend(1)
    with pytest.raises(server.Closed):
        other.spend(5)

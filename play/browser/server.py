"""The server of `python -m play --browser`: the page, and a WebSocket for each player.

In: requests and messages from browsers. Out: the page, frames and files. Accepts only its own page,
and limits the size, rate and number of messages. Steps no world itself.
"""

import asyncio
import errno
import io
import re
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from genie import decoding, video
from genie.errors import UserError, in_one_line
from genie.fitting import check_image_size
from play.browser import wire
from play.browser.page_player import GONE, POLICY, TRY_LATER, Closed, PagePlayer, Workers
from play.worlds import Library, Opening, prompts_for

PAGE = Path(__file__).parent
PORT_ERRORS = (errno.EADDRINUSE, errno.EACCES)
NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,252}")
MOST_TOLD = 20  # largest number of refused names that are printed in the terminal
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ASSETS = ("page.js", "link.js", "sketch.js", "page.css", "icon.svg")
MAX_UPLOAD_PIXELS = 16_000_000
MAX_FILM_PIXELS, MAX_FILM_FRAMES = 1920 * 1200, 3000
FILMS = re.compile(rb"GIF8|....ftyp|\x1aE\xdf\xa3", re.DOTALL)
"""First bytes of the videos that may be uploaded: GIF, MP4 and WebM. Other formats, such as
playlists, could refer to files on this machine."""
IDLE_SECONDS, SEND_SECONDS, CLOSE_SECONDS = 600.0, 20.0, 2.0
MESSAGES_A_SECOND, MESSAGES_AT_ONCE, PICTURE_COSTS = 60.0, 240.0, 20.0
"""Messages that a page may send per second and in a burst; an upload counts as several."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

Message = MutableMapping[str, Any]
App = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]],
    Awaitable[None],
]


class OwnPagesOnly:
    """Refuses requests from the pages of other sites, and requests under unknown host names.

    Otherwise any website could connect from a visitor's browser, or reach a server that listens on
    this machine alone by pointing its own name here (DNS rebinding). Each refused name is printed
    once in the terminal with the option that allows it: only the person who set up a proxy in front
    of this server knows the proxy's name.
    """

    def __init__(
        self,
        app: App,
        names: frozenset[str] | None,
        allowed: frozenset[str] = frozenset(),
        say: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        """Args: names: host names of this server, None for any; allowed: those of proxies."""
        self._app, self._allowed, self._say = app, allowed, say
        self._names = None if names is None else names | allowed
        self._reported: set[str] = set()

    async def __call__(self, scope: Message, receive: Any, send: Any) -> None:
        """Pass a request to the application, or answer 403."""
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        unknown = self._unknown_name(dict(scope["headers"]))
        if unknown is None:
            return await self._app(scope, receive, send)
        why = self._refusal(unknown)
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": POLICY})
        else:
            await PlainTextResponse(why, 403, HEADERS)(scope, receive, send)

    def _unknown_name(self, headers: dict[bytes, bytes]) -> str | None:
        """The first of the request's host and origin that is not one of ours, if any."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if self._names is not None and _name_of(host) not in self._names:
            return _name_of(host)
        # A missing origin is accepted: programs other than browsers send none, and could send any.
        origin = headers.get(b"origin", b"").decode("latin-1").lower().split("://")[-1]
        is_own = origin in ("", host) or _name_of(origin) in self._allowed
        return None if is_own else _name_of(origin)

    def _refusal(self, name: str) -> str:
        if name == "null" or not NAME.fullmatch(name):
            return "this page may not play here"
        why = f"a page at {name} may not play here; if it is yours, start with --allow {name}"
        if name not in self._reported and len(self._reported) < MOST_TOLD:
            self._reported.add(name)
            self._say(f"refused: {why}")
        return why


def _name_of(host: str) -> str:
    """A host without its port."""
    return (host if host.endswith("]") else host.rsplit(":", 1)[0]).strip("[]")


class Budget:
    """How many messages a page may still send; refills with time, up to a limit."""

    def __init__(self) -> None:
        self._left, self._at = MESSAGES_AT_ONCE, time.monotonic()

    def spend(self, cost: float) -> None:
        """Pay for a message.

        Raises:
            Closed: if there is not enough left.
        """
        now = time.monotonic()
        refilled = self._left + (now - self._at) * MESSAGES_A_SECOND
        self._left, self._at = min(refilled, MESSAGES_AT_ONCE) - cost, now
        if self._left < 0:
            raise Closed(POLICY, "too many messages")


class PageLine:
    """The connection to one page."""

    def __init__(self, connection: WebSocket) -> None:
        self._connection = connection

    async def send_json(self, message: dict[str, Any]) -> None:
        """Send a message; raises `Closed` if the page is gone."""
        await self._sent(self._connection.send_json(message))

    async def send_bytes(self, content: bytes) -> None:
        """Send a frame or a file; raises `Closed` if the page is gone."""
        await self._sent(self._connection.send_bytes(content))

    async def _sent(self, sending: Awaitable[None]) -> None:
        try:
            # A page that no longer receives anything must not keep its place.
            async with asyncio.timeout(SEND_SECONDS):
                await sending
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            raise Closed(GONE, "the page has gone") from error


class Room:
    """One world, its prompts, and everybody who plays there.

    Args:
        library: opens uploaded files.
        folder: folder of the world.
        prompts: openings to choose from; every player starts with the first.
        max_players: maximum number of simultaneous players.
        idle_seconds: time without a command after which a player is disconnected.
    """

    def __init__(
        self,
        library: Library,
        folder: Path,
        prompts: list[Opening],
        *,
        max_players: int,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._library, self._folder, self._prompts = library, folder, prompts
        self._max_players, self._idle_seconds = max_players, idle_seconds
        self._num_players = 0
        self._thumbnails = [_png(opening) for opening in prompts]
        self._workers = Workers(ThreadPoolExecutor(1), ThreadPoolExecutor(2))

    def routes(self) -> list[Route | WebSocketRoute]:
        """The paths that the server answers."""
        return [
            Route("/", self._page),
            Route("/{name}.{kind}", self._asset),
            Route("/prompts/{number:int}.png", self._thumbnail),
            WebSocketRoute("/play", self._play),
        ]

    async def _page(self, request: Request) -> Response:
        return FileResponse(PAGE / "page.html", headers=HEADERS)

    async def _asset(self, request: Request) -> Response:
        name = f"{request.path_params['name']}.{request.path_params['kind']}"
        if name == "legend.png" and (self._folder / name).is_file():
            return FileResponse(self._folder / name, headers=HEADERS)
        if name not in ASSETS:
            return PlainTextResponse("there is no such page", 404, HEADERS)
        return FileResponse(PAGE / name, headers=HEADERS)

    async def _thumbnail(self, request: Request) -> Response:
        number = request.path_params["number"]
        if number >= len(self._thumbnails):
            return PlainTextResponse("there is no such prompt", 404, HEADERS)
        return Response(self._thumbnails[number], media_type="image/png", headers=HEADERS)

    async def _play(self, connection: WebSocket) -> None:
        await connection.accept()
        line = PageLine(connection)
        if self._num_players >= self._max_players:
            await _send_away(connection, Closed(TRY_LATER, "all places are taken: try again soon"))
            return
        self._num_players += 1
        try:
            await line.send_json(self._facts())
            player = PagePlayer(
                line, self._workers, self._prompts, self._open_file, self._idle_seconds
            )
            await _first_end(player.play(), self._listen(connection, player))
        except Closed as closed:
            await _send_away(connection, closed)
        finally:
            self._num_players -= 1

    async def _listen(self, connection: WebSocket, player: PagePlayer) -> None:
        """Pass the messages of a page to its player, until it closes or sends too much."""
        budget, num_refused = Budget(), 0
        while True:
            message = await connection.receive()
            if message["type"] == "websocket.disconnect":
                raise Closed(GONE, "the page has gone")
            content = message.get("bytes")
            budget.spend(PICTURE_COSTS if content is not None else 1.0)
            try:
                player.take(content if content is not None else wire.parse(message["text"]))
            except UserError as error:
                num_refused += 1
                if num_refused > 100:
                    raise Closed(POLICY, "too many invalid messages") from error
                await PageLine(connection).send_json({"is": "notice", "text": str(error)})

    def _open_file(self, content: bytes) -> Opening:
        """Open the world with an uploaded image or video."""
        if not FILMS.match(content):
            size = self._library.world(self._folder).size
            picture = video.decode_image(content, size, max_pixels=MAX_UPLOAD_PIXELS)
            return for_visitors(self._library.open_frames(self._folder, picture[None]))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video.mp4"  # whatever its format is
            path.write_bytes(content)
            try:
                check_film(path)
                return for_visitors(self._library.open(self._folder, path))
            except UserError as error:  # it names the temporary file
                raise UserError(str(error).replace(str(path), "the file")) from error

    def _facts(self) -> dict[str, Any]:
        keymap = self._prompts[0].keymap
        height, width = self._prompts[0].prompt.shape[1:3]
        return {
            "is": "facts",
            "world": self._prompts[0].world,
            "runs": self._prompts[0].what_runs,
            "fps": self._prompts[0].fps,
            "width": width,
            "height": height,
            "names": [keymap.name_of(action) for action in range(keymap.num_actions)],
            "bindings": dict(keymap.bindings),
            "prompts": len(self._prompts),
            "most_bytes": wire.MAX_UPLOAD,
            "has_strip": (self._folder / "legend.png").is_file(),
        }


def serve(
    library: Library,
    folder: Path,
    prompt: Path | None,
    *,
    host: str,
    port: int,
    max_players: int,
    allow: Sequence[str] = (),
) -> None:
    """Serve a world until Ctrl-C.

    Args:
        library: opens the world.
        folder: folder of the world.
        prompt: file to start with; the world's own prompts follow.
        host: address to listen on.
        port: port to listen on.
        max_players: maximum number of simultaneous players.
        allow: host names of proxies or tunnels in front of this server.

    Raises:
        UserError: if the world or the prompt cannot be read, or the port is taken.
    """
    listener = _listener(host, port)  # fails before the world is loaded, which takes a while
    with listener:
        prompts = _open_prompts(library, folder, prompt)
        room = Room(library, folder, prompts, max_players=max_players)
        app = make_app(room, host, allow)
        print(prompts[0].what_runs)
        print(f"play at http://{_shown(host)}:{port} (Ctrl-C ends it)", flush=True)
        uvicorn.Server(make_config(app)).run(sockets=[listener])


def make_app(room: Room, host: str, allow: Sequence[str] = ()) -> App:
    """The application that the server runs. Args: host, allow: see `serve`."""
    # A server that listens on a network has host names that cannot be known here.
    names = LOOPBACK | {host.lower()} if host in LOOPBACK else None
    allowed = frozenset(name.lower() for name in allow)
    return OwnPagesOnly(Starlette(routes=room.routes()), names, allowed)


def make_config(app: App) -> uvicorn.Config:
    """The server's configuration, with its limits."""
    return uvicorn.Config(
        app,
        log_level="error",
        ws="websockets-sansio",
        ws_max_size=wire.MAX_UPLOAD,
        ws_max_queue=16,
        limit_concurrency=256,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
        server_header=False,
    )


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: the name cannot be looked up
        why = getattr(error, "strerror", None) or error
        wrong = "--port" if getattr(error, "errno", None) in PORT_ERRORS else "--host"
        raise UserError(f"cannot listen on {host}:{port} ({why}): give another {wrong}") from error
    return listener


def _open_prompts(library: Library, folder: Path, prompt: Path | None) -> list[Opening]:
    """Open the given prompt, the world's own, and those for any world."""
    files = [prompt] if prompt else []
    files += prompts_for(folder)
    openings = [for_visitors(library.open(folder, path)) for path in files]
    if not openings:
        raise UserError(f"no prompt in {folder / 'prompts'}: give --prompt image.png")
    return openings


async def _first_end(*tasks: Awaitable[None]) -> None:
    """Run all tasks until one ends or fails, then cancel the others."""
    running = [asyncio.ensure_future(task) for task in tasks]
    try:
        done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _send_away(connection: WebSocket, closed: Closed) -> None:
    code, reason = closed.args
    with suppress(WebSocketDisconnect, RuntimeError, OSError):  # it is closed already
        async with asyncio.timeout(CLOSE_SECONDS):
            await connection.close(code, reason)


def for_visitors(opening: Opening) -> Opening:
    """Return the opening with the legend's keys: the bindings stored here are not the visitors'."""
    beside = for_visitors(opening.beside) if opening.beside else None
    return replace(opening, keymap=opening.legend_keymap, beside=beside)


def check_film(path: Path) -> None:
    """Check that an uploaded video does not take too long to decode.

    Raises:
        UserError: if it is broken, or has too many frames or pixels.
    """
    with decoding.open_video(path) as container:
        track = container.streams.video[0]
        check_image_size(path, track.width, track.height, MAX_FILM_PIXELS)
        try:
            num_packets = sum(1 for _ in islice(container.demux(track), MAX_FILM_FRAMES + 2))
        except Exception as error:  # a broken file makes the demuxers raise nearly anything
            raise UserError(f"{path} is broken: {in_one_line(error)}") from error
    if num_packets > MAX_FILM_FRAMES + 1:  # the last packet is empty
        raise UserError(f"{path} has more than {MAX_FILM_FRAMES} frames: cut it")


def _png(opening: Opening) -> bytes:
    content = io.BytesIO()
    Image.fromarray(opening.prompt[-1]).save(content, format="PNG")
    return content.getvalue()


def _shown(host: str) -> str:
    """An address that can be typed into a browser."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host

"""Time that the web page adds to a frame: from sending a command to receiving the picture."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import numpy as np
from websockets.sync.client import ClientConnection, connect

from play.browser import wire
from tests.benchmarks.timing import spread_ms, take_turns


def round_trips(count: int) -> list[dict]:
    """Single steps of the shipped world, directly and through a forwarded port."""
    with (
        _serving() as port,
        _forwarding(port) as forwarded,
        _player(port) as near,
        _player(forwarded) as far,
    ):
        players = {"direct": near, "forwarded": far}
        seconds = take_turns(
            {way: lambda page=page: _step(page) for way, page in players.items()}, count
        )
        model_ms = _model_ms(near)
    return [
        {
            "the way": way,
            **spread_ms(np.array(times)),
            "model_ms": model_ms,
            "added_ms": 1000 * float(np.median(times)) - model_ms,
        }
        for way, times in seconds.items()
    ]


def _step(page: ClientConnection) -> None:
    page.send(json.dumps({"do": "step"}))
    while not isinstance(message := page.recv(timeout=60), bytes):
        pass
    page.send(json.dumps({"do": "seen", "frame": wire.HEADER.unpack_from(message)[4]}))
    page.recv(timeout=60)  # the state that goes with the picture


def _model_ms(page: ClientConnection) -> float:
    """Time of the newest steps without the page, as the server measures it."""
    page.send(json.dumps({"do": "step"}))
    while isinstance(message := page.recv(timeout=60), bytes) or "model_ms" not in message:
        pass
    return json.loads(message)["model_ms"]


@contextmanager
def _player(port: int) -> Iterator[ClientConnection]:
    """Connect a player and pause its world."""
    with connect(f"ws://127.0.0.1:{port}/play") as page:
        page.send(json.dumps({"do": "pause"}))
        while not (
            isinstance(said := page.recv(timeout=60), str) and json.loads(said).get("paused")
        ):
            pass
        yield page


@contextmanager
def _serving() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-u", "-m", "play", "--browser", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            while "http://" not in process.stdout.readline():
                pass
            while True:
                with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port))):
                    break
            yield port
        finally:
            process.terminate()


@contextmanager
def _forwarding(port: int) -> Iterator[int]:
    """Forward a new port to another one, as ssh -L does."""
    with closing(socket.create_server(("127.0.0.1", 0))) as entrance:
        threading.Thread(target=_forward, args=(entrance, port), daemon=True).start()
        yield entrance.getsockname()[1]


def _forward(entrance: socket.socket, port: int) -> None:
    with suppress(OSError):  # the entrance is closed at the end
        while True:
            near, _ = entrance.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(one, other), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)

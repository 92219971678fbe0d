"""`python -m play --export-site DIR`: a world as a folder that any host of static files can serve.

In: a world with graphs, its prompts and legend. Out: the page, the program that plays the world in
the browser, graphs, and weights, which all graphs share. The files are those of `--browser`, except
that the page's link leads to a worker instead of a server.
"""

import io
import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import save

from genie.decoding import is_film
from genie.errors import UserError
from genie.files import check_folder, whole_folder, writing
from genie.legend import STRIP_NAME
from genie.onnx_engine import Card, load_weights, read_card
from play.browser.wire import MAX_UPLOAD
from play.site import npm
from play.worlds import Library, Opening, prompts_for

HERE = Path(__file__).parent
PAGE = HERE.parent / "browser"
PLACE = b"weights"
"""The name that graphs give the place of all weights, see `genie.graphs.WEIGHTS`."""
PACKAGES = {
    ("onnxruntime-web", "1.30.0"): (
        "dist/ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
    ),
    ("gifenc", "1.0.3"): ("dist/gifenc.esm.js", "LICENSE.md"),
}
"""What the page runs on: npm packages with their version, and the files that are needed of each."""


def export(library: Library, folder: Path, prompt: Path | None, site: Path) -> int:
    """Write a world as a static site, and return the number of its bytes.

    Args:
        library: opens the world with onnxruntime.
        folder: the world's folder.
        prompt: image to start with; the world's own prompts follow.
        site: where to; a new folder, or an empty one.

    Raises:
        UserError: if the world has no graphs, the place is taken or cannot be written, or npm
            cannot provide the packages.
    """
    site = check_folder(site).resolve()
    if (site / "world" / "world.json").is_file():
        raise UserError(f"{site} holds a site already: delete it first, or choose a new folder")
    if site.exists() and any(site.iterdir()):
        raise UserError(f"{site} is not empty: choose a new folder")
    card = read_card(folder)
    if card is None:
        raise UserError(
            f"{folder} has no graphs that fit it: python -m train.graphs {folder} makes them"
        )
    images = [path for path in prompts_for(folder) if not is_film(path)]
    openings = [library.open(folder, path) for path in ([prompt] if prompt else []) + images]
    if not openings:
        raise UserError(f"no image in {folder / 'prompts'}: give --prompt image.png")
    with writing(site), whole_folder(site) as partial:
        files = _page() | _runtime() | _world(folder, card, openings)
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    return sum(map(len, files.values()))


def _page() -> dict[str, bytes]:
    """The page and its scripts; ours replace those of the server's page that have the same name."""
    kinds = ("*.css", "*.svg", "*.js")
    files = [file for kind in kinds for place in (PAGE, HERE) for file in place.glob(kind)]
    page = {"index.html": (PAGE / "page.html").read_bytes(), ".nojekyll": b""}
    return page | {file.name: file.read_bytes() for file in files}


def _runtime() -> dict[str, bytes]:
    """What the page runs on, with its licences."""
    files = {}
    for (package, version), names in PACKAGES.items():
        contents = npm.read_files(package, version, names)
        named = (Path(name).name.replace("LICENSE", f"LICENSE-{package}") for name in names)
        files |= dict(zip(named, contents, strict=True))
    # The npm package lacks its licence, which is that of the same runtime for Python.
    for name in ("LICENSE", "ThirdPartyNotices.txt"):
        files[f"onnxruntime-{name}"] = (Path(onnxruntime.__file__).parent / name).read_bytes()
    return {f"runtime/{name}": content for name, content in files.items()}


def _world(folder: Path, card: Card, openings: list[Opening]) -> dict[str, bytes]:
    """Graphs, weights, prompts and legend, and a file with all else that the page must know."""
    strip = folder / STRIP_NAME
    facts = _facts(card, openings) | {"has_strip": strip.is_file()}
    loaded, wanted = load_weights(folder, card), {*itertools.chain(*card.weights.values())}
    weights = {name: smallest(loaded[name]) for name in wanted}
    places = {name: f"{number:0{len(PLACE)}}" for number, name in enumerate(sorted(weights))}
    files = {"world/world.json": json.dumps(facts, indent=1).encode()}
    files["world/weights.safetensors"] = save({places[name]: weights[name] for name in weights})
    for name, wanted in card.weights.items():
        graph = (folder / f"{name}.onnx").read_bytes()
        files[f"world/{name}.onnx"] = _with_places(graph, {each: places[each] for each in wanted})
    for number, opening in enumerate(openings):
        files[f"prompts/{number}.png"] = _png(opening.prompt[-1])
    return files | ({STRIP_NAME: strip.read_bytes()} if strip.is_file() else {})


def _facts(card: Card, openings: list[Opening]) -> dict[str, Any]:
    """What the server would tell the page about the world, and what the worker needs."""
    first = openings[0]
    height, width = card.size
    return {
        "world": first.world,
        "fingerprint": card.fingerprint,
        "fps": first.fps,
        "width": width,
        "height": height,
        "names": [first.keymap.name_of(action) for action in range(card.num_actions)],
        "bindings": dict(first.legend_keymap.bindings),
        "wishes": dict(first.legend_keymap.wishes),
        "has_prior": "foretell" in card.weights,
        "prompts": len(openings),
        "mask_id": card.mask_id,
        "most_bytes": MAX_UPLOAD,
        "seed": str(first.seed),  # JavaScript rounds large numbers
        "sampling": asdict(card.sampling) | first.settings._asdict(),
    }


def smallest(array: np.ndarray) -> np.ndarray:
    """A float32 array in float16 if that loses nothing, else as it is."""
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    return half if (half == array).all() else array


def _with_places(graph: bytes, places: dict[str, str]) -> bytes:
    """A graph in which each weight has a place of its own, of the same length as `PLACE`.

    Protocol buffers write a weight's name and its place one after the other, each with its length.
    """
    for name, place in places.items():
        before = b"\x42%c%b\x6a\x13\x0a\x08location\x12\x07" % (len(name), name.encode())
        if graph.count(before + PLACE) != 1:
            raise UserError(f"a graph has no place for {name}: make it with python -m train.graphs")
        graph = graph.replace(before + PLACE, before + place.encode())
    return graph


def _png(picture: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(picture).save(content, format="PNG")
    return content.getvalue()

"""A protocol fixes the clips that worlds are scored on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_evaluate import configure

from genie.data.clips import FrameStore
from genie.errors import UserError
from train import evaluate, protocol
from train.measure.rollouts import HISTORY


@pytest.fixture
def fixed(prepared_folder: Path, tmp_path: Path) -> Path:
    out = tmp_path / "protocol.json"
    options = {"num_clips": 3, "horizon": 5, "seed": 4, "recorded_by": ("record it",)}
    protocol.main(protocol.ProtocolConfig(data=(prepared_folder,), out=out, **options))
    return out


def test_clips_are_named_by_video_and_frame(fixed: Path, prepared_folder: Path):
    store = FrameStore.open(prepared_folder, "heldout")
    found, sets = protocol.read_protocol(fixed, store.split_fingerprint)
    clips = sets[""]
    assert found.recorded_by == ("record it",) and clips.name == prepared_folder.name
    assert (clips.height, clips.width) == store.size and clips.horizon == 5
    assert len(clips.clips) == 3 and len(clips.long) == len(store.video_names) == 4
    for prompt in (*clips.clips, *clips.long):
        number = store.video_names.index(prompt.video)
        length = store.video_starts[number + 1] - store.video_starts[number]
        assert HISTORY <= prompt.frame < length
    for row, prompt in zip(protocol.place(clips, store)[0], clips.clips, strict=True):
        number = store.video_names.index(prompt.video)
        assert row + HISTORY == store.video_starts[number] + prompt.frame


def test_a_world_is_scored_on_the_clips_of_the_protocol(
    fixed: Path, prepared_folder: Path, tiny_world_folder: Path, tmp_path: Path
):
    """The same that its seed draws, whatever the flags say."""
    common = {"long_steps": 10}
    drawn = configure(tiny_world_folder, prepared_folder, tmp_path / "a", seed=4, **common)
    named = configure(tiny_world_folder, prepared_folder, tmp_path / "b", protocol=fixed, **common)
    figures = []
    for config in (drawn, replace(named, num_clips=1, horizon=2)):
        evaluate.main(config)
        figures.append(json.loads((config.out / "metrics.json").read_text()))
        figures[-1].pop("latency"), figures[-1].pop("main")
    assert figures[0] == figures[1]
    content = json.loads(fixed.read_text())
    for prompts in ("clips", "long"):
        content["sets"][0][prompts] = content["sets"][0][prompts][1:]
    fixed.write_text(json.dumps(content))
    evaluate.main(named)
    fewer = json.loads((named.out / "metrics.json").read_text())
    assert fewer["clips"]["num_clips"] == 2 and fewer["rollout"] != figures[0]["rollout"]
    before, after = (found["long"]["steps"]["10"]["num_true"] for found in (figures[0], fewer))
    assert after == before - 1
    content["sets"][0]["clips"][0]["video"] = "heldout/none"
    fixed.write_text(json.dumps(content))
    with pytest.raises(UserError, match="video heldout/none is not in the data"):
        evaluate.main(named)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda text: "no json", "cannot read"),
        (lambda text: "[]", "no protocol"),
        (lambda text: text.replace('"version": 1', '"version": 99'), "no protocol of version 1"),
        (lambda text: text.replace('"frame"', '"place"'), "misses field 'frame'"),
        (lambda text: text.replace('"data": "', '"data": "x'), "is for other videos"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(fixed: Path, prepared_folder: Path, spoil, told: str):
    fixed.write_text(spoil(fixed.read_text()))
    with pytest.raises(UserError, match=told) as error:
        protocol.read_protocol(fixed, FrameStore.open(prepared_folder, "heldout").split_fingerprint)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clips": ()}, "has no clips"),
        ({"long": ()}, "has no clips"),
        ({"history": HISTORY + 1}, "history 4"),
        ({"horizon": 0}, "horizon 0"),
        ({"frame": 10**6}, "frame 1000000 .* not within"),
        ({"frame": 35}, "frame 35 .* not within"),  # of 40, with five to come
        ({"frame": HISTORY - 1}, "frame 2 .* not within"),
        ({"frame": -7}, "frame -7 .* not within"),
        ({"frame": 43}, "frame 43 .* not within"),  # of the next video
        ({"frame": 2**63 - 1}, "not within"),
        ({"horizon": 10**30}, "not within"),
        ({"height": 7}, "frames of 7x"),
        ({"fps": 99.0}, "at 99"),
        ({"long": 4}, "frame 4 .* not at a scene's beginning"),
    ],
)
def test_clips_that_are_not_there_are_refused(
    fixed: Path, prepared_folder: Path, change: dict, told: str
):
    store = FrameStore.open(prepared_folder, "heldout")
    clips = protocol.read_protocol(fixed, store.split_fingerprint)[1][""]
    if "frame" in change:
        change = {"clips": (replace(clips.clips[0], **change), *clips.clips[1:])}
    if change.get("long"):
        change = {"long": (replace(clips.long[0], frame=change["long"]), *clips.long[1:])}
    with pytest.raises(UserError, match=told):
        protocol.place(replace(clips, **change), store)


def test_a_protocol_can_be_checked_before_anything_is_trained(
    fixed: Path, prepared_folder: Path, capsys: pytest.CaptureFixture
):
    config = protocol.ProtocolConfig(data=(prepared_folder,), out=fixed, check=True)
    before = fixed.read_bytes()
    protocol.main(config)
    assert "fits" in capsys.readouterr().out and fixed.read_bytes() == before
    for old, new, told in (
        ('"game": ""', '"game": "chess"', "a game 'chess' that the data lacks"),
        ('"horizon": 5', '"horizon": 5000', "not within"),
        ('"seed": 4', '"seed": -1', "the seed is -1"),
    ):
        fixed.write_text(before.decode().replace(old, new))
        with pytest.raises(UserError, match=told):
            protocol.main(config)


@pytest.mark.parametrize("value", [{}, {"name": "x"}, [[]], 3])
def test_what_is_no_list_of_sets_is_refused(fixed: Path, prepared_folder: Path, value):
    fixed.write_text(json.dumps(json.loads(fixed.read_text()) | {"sets": value}))
    config = protocol.ProtocolConfig(data=(prepared_folder,), out=fixed, check=True)
    with pytest.raises(UserError, match="sets is"):
        protocol.main(config)


def test_nothing_to_draw_from_is_refused(tmp_path: Path, prepared_folder: Path):
    config = protocol.ProtocolConfig(data=(), out=tmp_path / "x.json")
    with pytest.raises(UserError, match="no folder"):
        protocol.main(config)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        protocol.main(replace(config, data=(prepared_folder,), out=tmp_path / "file" / "x.json"))
    with pytest.raises(UserError, match="the same videos: name them once"):
        protocol.main(replace(config, data=(prepared_folder, prepared_folder)))
    with pytest.raises(UserError, match="the seed is -1"):
        protocol.main(replace(config, data=(prepared_folder,), seed=-1))
    assert not config.out.exists()

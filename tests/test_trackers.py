"""Experiment trackers: what is logged reaches them, and what is wrong is said in one line."""

from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator, tracking
from accelerate.utils import LoggerType
from PIL import Image
from test_train import on_one_core, open_stores, small_trainer, to_its_end  # noqa: F401

from genie.errors import UserError
from train.loop import trackers


def events(folder: Path):
    """What TensorBoard would show."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = folder.rglob("events.out.tfevents.*")
    # Settings lie in a file of their own, in a folder below.
    found = EventAccumulator(str(min(files, key=lambda file: len(file.parts)).parent))
    found.Reload()
    return found


def draw(_net, folder: Path) -> dict[str, float]:
    folder.mkdir(parents=True)
    Image.fromarray(np.full((8, 12, 3), 90, np.uint8)).save(folder / "seen.png")
    return {"score": 2.5}


def test_tensorboard_shows_what_metrics_hold(prepared_folder: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    stores = open_stores(prepared_folder)
    values = {"trackers": ("tensorboard",), "options": {"judge": draw}}
    trainer = small_trainer(stores, tmp_path / "run", "dynamics", **values)
    to_its_end(trainer)
    found = events(tmp_path / "run")
    names = found.Tags()["scalars"]
    assert {"train/loss", "train/learning_rate", "heldout/loss", "heldout/score"} <= set(names)
    for split, steps in (("train", [2, 4, 6, 8]), ("heldout", [4, 8])):
        logged = [line for line in trainer.folder._lines() if line["split"] == split]
        shown = found.Scalars(f"{split}/loss")
        assert [point.step for point in shown] == steps
        assert [point.value for point in shown] == pytest.approx(
            [line["loss"] for line in logged], rel=1e-4
        )


def test_tensorboard_shows_the_pictures_of_an_evaluation(prepared_folder: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    stores = open_stores(prepared_folder)
    values = {"trackers": ("tensorboard",), "options": {"judge": draw}}
    to_its_end(small_trainer(stores, tmp_path / "run", "dynamics", **values))
    found = events(tmp_path / "run")
    names = found.Tags()["images"]
    assert len(names) == 1 and names[0].startswith("seen"), "pictures do not arrive"
    assert [picture.step for picture in found.Images(names[0])] == [4, 8]


def test_an_unknown_tracker_is_refused_by_name():
    with pytest.raises(
        UserError, match=r"no tracker 'notebook': choose one of .*tensorboard"
    ) as told:
        trackers.check_trackers(["notebook"])
    assert "\n" not in str(told.value)


def test_a_missing_package_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.TENSORBOARD])
    trackers.check_trackers(["tensorboard"])
    with pytest.raises(UserError, match="wandb is not installed: pip install wandb"):
        trackers.check_trackers(["tensorboard", "wandb"])


def test_a_tracker_that_cannot_be_had_is_refused_before_the_run_folder_is_made(
    prepared_folder: Path, tmp_path: Path
):
    with pytest.raises(UserError, match="no tracker 'notebook'"):
        stores = open_stores(prepared_folder)
        small_trainer(stores, tmp_path / "run", "dynamics", trackers=("notebook",))
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_does_not_start_is_one_line(tmp_path: Path, monkeypatch):
    pytest.importorskip("tensorboard")

    def start(_self) -> None:
        raise RuntimeError("no service\nis there")

    monkeypatch.setattr(tracking.TensorBoardTracker, "start", start)
    accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path)
    with pytest.raises(UserError, match=r"trackers \(tensorboard\): no service is there"):
        trackers.start_trackers(accelerator, {})


def test_nested_settings_reach_a_tracker_by_dotted_names(tmp_path: Path):
    class Recorder(tracking.GeneralTracker):
        name, requires_logging_directory, tracker = "recorder", False, None

        def store_init_configuration(self, values: dict) -> None:
            self.settings = values

    recorder = Recorder()
    accelerator = Accelerator(cpu=True, log_with=recorder, project_dir=tmp_path)
    trackers.start_trackers(accelerator, {"loop": {"num_steps": 8, "betas": (0.9, 0.95)}, "a": "b"})
    assert recorder.settings == {"loop.num_steps": 8, "loop.betas": "(0.9, 0.95)", "a": "b"}


def test_a_tracker_changes_nothing_that_is_trained(prepared_folder: Path, tmp_path: Path):
    pytest.importorskip("tensorboard")
    stores = open_stores(prepared_folder)
    for name, tracked in (("with", ("tensorboard",)), ("without", ())):
        to_its_end(small_trainer(stores, tmp_path / name, "dynamics", trackers=tracked))
    a, b = ((tmp_path / name / "weights.safetensors").read_bytes() for name in ("with", "without"))
    assert a == b

"""LPIPS, FID and FVD by networks of the user's own: what they are shown, and bad files."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from genie.errors import UserError
from train.measure.metrics import frechet_distance
from train.measure.networks import NetworkFigures, Supplied


class Distance(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a - b).abs().mean(dim=[1, 2, 3], keepdim=True)


class Clips(nn.Module):
    """Gives the brightness of the first and last frame; refuses what I3D would."""

    def forward(
        self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> Tensor:
        assert not rescale and not resize and return_features
        assert x.shape[1] == 3 and x.shape[3] == 224 and x.shape[4] == 224
        assert float(x.min()) >= -1 and float(x.max()) <= 1
        return x.mean(dim=[1, 3, 4])[:, [0, -1]]


class Pictures(nn.Module):
    """Gives the brightness of the upper and the lower half of stored frames."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        assert return_features and x.dtype == torch.uint8
        halves = x.float().flatten(1, 2).unflatten(1, (2, -1))
        return halves.mean(dim=[2, 3])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("networks")
    paths = folder / "lpips.pt", folder / "i3d.pt", folder / "inception.pt"
    for module, path in zip((Distance(), Clips(), Pictures()), paths, strict=True):
        torch.jit.script(module).save(str(path))
    return paths


def films(num_frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Generated and true frames, and prompts; uint8."""
    torch.manual_seed(0)
    future = torch.randint(0, 256, (20, num_frames, 3, 16, 24), dtype=torch.uint8)
    return future // 2, future, future[:, 0]


def test_the_users_networks_are_shown_what_they_were_made_for(files):
    generated, future, prompts = films(9)
    figures = Supplied.open(*files).figures(generated, future, prompts)
    assert list(figures.lpips) == list(range(1, 10))
    assert figures.lpips[1].copy_last_frame == 0, "the prompt is the first frame here"
    gap = (future[:, 3].float() - generated[:, 3].float()).mean().item() * 2 / 255
    assert figures.lpips[4].generated == pytest.approx(gap, rel=1e-4)
    bright = [2 * frames[:, [0, -1]].float().mean(dim=(2, 3, 4)) / 255 - 1 for frames in
              (torch.cat([prompts[:, None], x], dim=1) for x in (generated, future))]  # fmt: skip
    assert figures.fvd == pytest.approx(frechet_distance(*bright), rel=0.02)
    halves = [frames.flatten(0, 1).float().flatten(1, 2).unflatten(1, (2, -1)).mean(dim=(2, 3))
              for frames in (generated, future)]  # fmt: skip
    assert figures.fid == pytest.approx(frechet_distance(*halves), rel=1e-3)


class Answers(nn.Module):
    """Gives what no such network should."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(
        self,
        a: Tensor,
        b: Tensor | None = None,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> Tensor:
        if self.what == "nan":
            width = 1 if b is not None else 2
            return torch.full((a.shape[0], width), float("nan"))
        return a.mean() if self.what == "one" else a


@pytest.mark.parametrize(
    ("kind", "what", "told"),
    [
        ("lpips", "nan", "network gives"),
        ("lpips", "one", "distances of 20 pairs"),
        ("fvd", "nan", "network gives"),
        ("fvd", "all", "features of shape"),
        ("fid", "nan", "network gives"),
        ("fid", "all", "features of shape"),
    ],
)
def test_a_network_that_answers_otherwise_is_refused(tmp_path: Path, kind: str, what: str, told):
    path = tmp_path / "net.pt"
    torch.jit.script(Answers(what)).save(str(path))
    networks = [path if name == kind else None for name in ("lpips", "fvd", "fid")]
    with pytest.raises(UserError, match=told):
        Supplied.open(*networks).figures(*films(9))


def test_one_clip_is_too_few_for_fvd(files):
    with pytest.raises(UserError, match="2 clips or more"):
        Supplied.open(None, files[1]).figures(*(frames[:1] for frames in films(9)))


def test_without_networks_there_are_no_such_figures():
    assert Supplied.open(None, None).figures(*films(9)) == NetworkFigures()


def test_what_is_no_network_is_refused(tmp_path: Path, files):
    path = tmp_path / "weights.pt"
    for content in (None, b"no network"):
        if content:
            path.write_bytes(content)
        with pytest.raises(UserError, match="give a TorchScript file") as error:
            Supplied.open(path, None)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="10 frames or more"):
        Supplied.open(None, files[1]).figures(*films(5))
    with pytest.raises(UserError, match="FVD network does not take these") as error:
        Supplied.open(None, files[0]).figures(*films(9))
    assert "\n" not in str(error.value)

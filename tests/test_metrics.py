"""Metrics against closed forms, by property, and against other people's code."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.metrics import PSNR_CEILING, code_use, psnr
from train.measure import metrics
from train.measure.true_actions import cross_table, vote

# No deadline: a busy machine is not a failure.
quick = settings(max_examples=40, deadline=None)


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def labels(num_classes: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(num_classes, (count,), generator=torch.Generator().manual_seed(seed))


def texture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Blobs of a few pixels in three colours, 3 h w."""
    coarse = noise(1, 3, height // 4 + 1, width // 4 + 1, seed=seed)
    return F.interpolate(coarse, size=(height, width), mode="bilinear")[0]


def view(scene: torch.Tensor, right: int, up: int, height: int, width: int) -> torch.Tensor:
    """What a camera sees that stands `right` of and `up` from the scene's middle."""
    top = (scene.shape[-2] - height) // 2 - up
    left = (scene.shape[-1] - width) // 2 + right
    return scene[None, :, top : top + height, left : left + width]


@quick
@given(deviation=st.floats(0.02, 0.5))
def test_psnr_of_a_constant_error_is_its_closed_form(deviation: float):
    frames = torch.full((2, 5, 3, 6, 7), 0.25)
    found = psnr(frames, frames + deviation)
    assert found.shape == (2, 5)
    assert found == pytest.approx(torch.full((2, 5), -20 * math.log10(deviation)), abs=1e-3)


def test_psnr_of_gaussian_noise_is_that_of_its_variance():
    frames = torch.full((1, 3, 200, 200), 0.5)
    disturbed = frames + 0.1 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    assert psnr(frames, disturbed).item() == pytest.approx(20, abs=0.1)


def test_psnr_of_identical_frames_is_the_ceiling_and_not_infinite():
    frames = noise(2, 3, 8, 8)
    assert psnr(frames, frames).tolist() == [PSNR_CEILING] * 2


def test_psnr_judges_each_frame_alone():
    target = torch.zeros(2, 3, 8, 8)
    frames = torch.stack([target[0] + 0.1, target[1] + 0.01])
    assert psnr(frames, target).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_delta_psnr_is_positive_where_the_inferred_actions_lead_closer():
    target = torch.zeros(1, 3, 8, 8)
    assert metrics.delta_psnr(target, target + 0.1, target + 1).item() == pytest.approx(20)
    assert metrics.delta_psnr(target, target + 1, target + 0.1).item() == pytest.approx(-20)


@quick
@given(seed=st.integers(0, 1000), height=st.integers(4, 30), width=st.integers(11, 30))
def test_ssim_of_a_frame_with_itself_is_one_and_with_another_is_less(seed, height, width):
    frames, others = noise(2, 1, 3, height, width, seed=seed)
    assert metrics.ssim(frames, frames).item() == pytest.approx(1, abs=1e-4)
    similarity = metrics.ssim(frames, others)
    assert torch.allclose(similarity, metrics.ssim(others, frames), atol=1e-5)
    assert similarity.item() < 0.9


def test_ssim_of_two_flat_frames_is_its_luminance_term():
    dark, light = (torch.full((1, 3, 16, 16), value).double() for value in (0.2, 0.6))
    wanted = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert metrics.ssim(dark, light).item() == pytest.approx(wanted, abs=1e-6)


def test_ssim_agrees_with_a_window_by_window_computation():
    frames, others = noise(2, 1, 3, 13, 12).double()
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    weights = torch.from_numpy(weights / weights.sum())
    found = []
    for channel in range(3):
        for top in range(3):
            for left in range(2):
                window = (0, channel, slice(top, top + 11), slice(left, left + 11))
                a, b = frames[window], others[window]
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                variance_a = (weights * (a - mean_a) ** 2).sum()
                variance_b = (weights * (b - mean_b) ** 2).sum()
                covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
                luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                structure = (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
                found.append((luminance * structure).item())
    assert metrics.ssim(frames, others).item() == pytest.approx(np.mean(found), abs=1e-9)


@quick
@given(num_used=st.integers(1, 8))
def test_perplexity_and_usage_of_evenly_used_codes(num_used: int):
    codes = torch.arange(num_used).repeat(5).reshape(5, num_used)
    use = code_use(codes, 8)
    assert use["perplexity"].item() == pytest.approx(num_used)
    assert use["usage"].item() == num_used / 8


def test_perplexity_lies_between_the_codes_where_one_is_preferred():
    codes = torch.tensor([0, 0, 0, 1])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = code_use(codes, 5)["perplexity"].item()
    assert found == pytest.approx(math.exp(entropy))


@quick
@given(right=st.integers(-24, 24), up=st.integers(-24, 24), seed=st.integers(0, 100))
def test_scroll_recovers_the_motion_of_the_camera(right: int, up: int, seed: int):
    scene = texture(128, 132, seed)
    before, after = view(scene, 0, 0, 64, 64), view(scene, right, up, 64, 64)
    assert metrics.scroll(before, after).tolist() == [[right, up]]
    assert metrics.scroll(after, before).tolist() == [[-right, -up]]


def test_scroll_takes_frames_apart_and_of_any_shape():
    motions = [(0, 0), (5, -3), (-7, 2), (0, 9)]
    scene = texture(80, 100)
    before = view(scene, 0, 0, 32, 48).expand(4, -1, -1, -1)
    after = torch.cat([view(scene, right, up, 32, 48) for right, up in motions])
    assert metrics.scroll(before, after).tolist() == [list(motion) for motion in motions]


def test_scroll_bears_noise_and_a_sprite_that_stays():
    scene = texture(128, 128)
    frames = [view(scene, 0, 0, 64, 64).clone(), view(scene, 6, -11, 64, 64).clone()]
    for seed, frame in enumerate(frames):
        frame[..., 28:36, 28:36] = 1
        frame += 0.1 * (noise(*frame.shape, seed=seed) - 0.5)
    assert metrics.scroll(*frames).tolist() == [[6, -11]]


def test_scroll_is_not_drawn_to_a_flat_sky():
    """Mean squared error would prefer a shift under which black meets black only."""
    scene = torch.zeros(3, 128, 128)
    scene[:, 70:] = texture(58, 128)
    frames = [view(scene, 0, 0, 64, 64), view(scene, 4, 0, 64, 64)]
    disturbed = [frame + 0.05 * noise(*frame.shape, seed=k) for k, frame in enumerate(frames)]
    assert metrics.scroll(*disturbed).tolist() == [[4, 0]]


@pytest.mark.parametrize("period", [4, 8])
def test_scroll_prefers_no_motion_where_nothing_tells(period: int):
    flat = torch.full((1, 3, 32, 32), 0.3)
    tiles = texture(period, period).repeat(1, 32 // period, 32 // period)[None]
    assert metrics.scroll(flat, flat).tolist() == [[0, 0]]
    assert metrics.scroll(tiles, tiles).tolist() == [[0, 0]]
    one_axis = torch.arange(32).remainder(7).div(7).expand(1, 3, 32, 32)
    assert metrics.scroll(one_axis, one_axis.roll(-2, dims=-1)).tolist() == [[2, 0]]


def test_scroll_stays_within_its_reach():
    before, after = noise(2, 3, 3, 24, 16)
    assert metrics.scroll(before, after).abs().amax(dim=0).le(torch.tensor([8, 12])).all()
    assert metrics.scroll(before, after, max_shift=2).abs().max() <= 2


def test_eta_squared_of_separated_groups_is_one_and_of_chance_nothing():
    groups = labels(4, 4000)
    assert metrics.eta_squared(groups.double() * 3 - 1, groups) == pytest.approx(1)
    assert metrics.eta_squared(noise(4000), groups) < 0.01
    assert metrics.eta_squared(torch.ones(4000), groups) == 0


@quick
@given(seed=st.integers(0, 100), spread=st.floats(0.01, 10))
def test_eta_squared_does_not_depend_on_scale_or_names(seed: int, spread: float):
    groups = labels(3, 60, seed)
    values = noise(60, seed=seed) + groups
    found = metrics.eta_squared(values, groups)
    assert 0 <= found <= 1
    assert metrics.eta_squared(spread * values - 5, 10 - 3 * groups) == pytest.approx(
        found, abs=1e-4
    )


def test_eta_squared_of_a_known_case():
    values, groups = torch.tensor([0.0, 2.0, 4.0, 6.0]), torch.tensor([0, 0, 7, 7])
    assert metrics.eta_squared(values, groups) == pytest.approx(16 / 20)


def test_the_probe_reads_a_known_confusion():
    # Action 0 means 1 (8 of 10), action 1 means 0 (6 of 10), action 2 was never seen.
    table = torch.tensor([[2, 8], [6, 4], [0, 0]])
    assert vote(table).tolist() == [1, 0, 1]
    assert vote(torch.tensor([[30, 8], [60, 4]]), weighted=True).tolist() == [1, 0]
    assert vote(torch.tensor([[30, 8], [60, 4]])).tolist() == [0, 0]


def test_a_tie_goes_to_the_more_frequent_true_action():
    assert vote(torch.tensor([[3, 3], [0, 5]])).tolist() == [1, 1]


def test_cross_table_counts_pairs_and_keeps_room_for_labels_not_seen():
    table = cross_table(torch.tensor([0, 1, 1]), torch.tensor([2, 0, 0]), num_a=3)
    assert table.tolist() == [[0, 0, 1], [2, 0, 0], [0, 0, 0]]
    assert cross_table(torch.tensor([0]), torch.tensor([0]), 2, 3).shape == (2, 3)


def test_blur_takes_sharpness_and_a_flat_picture_has_none():
    sharp = texture(40, 40)
    blurred = F.avg_pool2d(sharp, 5, stride=1, padding=2, count_include_pad=False)
    assert metrics.sharpness(blurred) < 0.8 * metrics.sharpness(sharp)
    assert metrics.sharpness(torch.full((2, 3, 8, 8), 0.4)).tolist() == [0, 0]
    stripes = torch.tensor([0.0, 1.0]).repeat(8).expand(3, 6, 16)
    assert metrics.sharpness(stripes).item() == pytest.approx(0.5), "all across, none down"


def test_the_frechet_distance_of_known_distributions():
    """Along one axis it is the squares of the differences of means and of deviations."""
    torch.manual_seed(0)
    points = torch.randn(50, 3)
    assert metrics.frechet_distance(points, points) == pytest.approx(0, abs=1e-9)
    moved = points + torch.tensor([3.0, 0.0, -4.0])
    assert metrics.frechet_distance(points, moved) == pytest.approx(25, rel=1e-5)
    wider = points.mean(dim=0) + 3 * (points - points.mean(dim=0))
    spread = points.var(dim=0).sum().item()
    assert metrics.frechet_distance(points, wider) == pytest.approx(4 * spread, rel=1e-5)
    turned = torch.linalg.qr(torch.randn(3, 3))[0]
    assert metrics.frechet_distance(points @ turned, wider @ turned) == pytest.approx(
        metrics.frechet_distance(wider, points), rel=1e-5
    )
    mirrored = torch.randn(400, 2) * torch.tensor([3.0, 1.0])
    across = mirrored.flip(1)  # same total spread, the axes swapped: twice (3 - 1) squared
    assert metrics.frechet_distance(mirrored, across) == pytest.approx(8, rel=0.2)

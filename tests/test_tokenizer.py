"""The video tokenizer: causal, the same with and without a cache, and able to learn."""

import pytest
import torch
from conftest import HEIGHT, WIDTH, square_frames, tiny_world_config

from genie.codebook import CodebookConfig
from genie.errors import UserError
from genie.tokenizer import Tokenizer, TokenizerConfig


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    torch.manual_seed(3)
    net = Tokenizer(tiny_world_config().tokenizer).eval()
    # Spread the latents, or a fresh net gives one and the same token everywhere.
    torch.nn.init.normal_(net.codebook.quantizer.project_in.weight, std=0.5)
    return net


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return square_frames(2, 7)[0]


def test_tokens_see_no_later_frame(tokenizer: Tokenizer, frames: torch.Tensor):
    changed = frames.clone()
    changed[:, 4] = 1 - changed[:, 4]
    before, after = tokenizer.encode(frames), tokenizer.encode(changed)
    assert torch.equal(before[:, :4], after[:, :4]), "a later frame changed earlier tokens"
    assert not torch.equal(before[:, 4], after[:, 4]), "the changed frame kept its tokens"


def test_pixels_see_no_later_token(tokenizer: Tokenizer, frames: torch.Tensor):
    tokens = tokenizer.encode(frames)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 7) % tokenizer.codebook.size
    before, after = tokenizer.decode(tokens), tokenizer.decode(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], msg="later tokens changed the past")
    assert (before[:, 4] - after[:, 4]).abs().max() > 1e-4, "the changed tokens show nowhere"


def test_gradients_reach_back_in_time_only(tokenizer: Tokenizer, frames: torch.Tensor):
    leaf = frames.clone().requires_grad_()
    codes, _, _ = tokenizer._quantize(leaf)
    tokenizer._render(tokenizer.decoder(codes))[:, 3].sum().backward()
    assert (leaf.grad[:, 4:] == 0).all(), "frame 3 of the reconstruction depends on a later frame"
    assert (leaf.grad[:, 3] != 0).any(), "frame 3 of the reconstruction ignores frame 3"


@torch.no_grad()
def test_one_frame_at_a_time_equals_the_whole_clip(tokenizer: Tokenizer):
    tokens = torch.randint(tokenizer.codebook.size, (2, 14, tokenizer.config.num_tokens))
    whole, cache = tokenizer.decode(tokens), tokenizer.decoder.new_cache()
    for t in range(14):
        alone = tokenizer.decode_next(tokens[:, t : t + 1], cache)
        torch.testing.assert_close(alone[:, 0], whole[:, t], atol=1e-4, rtol=0)


@pytest.mark.parametrize("stem", ["conv", "linear"])
@pytest.mark.parametrize("kind", ["fsq", "vq"])
def test_overfits_one_clip(stem: str, kind: str):
    torch.manual_seed(0)
    frames = square_frames(1, 4, seed=5)[0]
    config = TokenizerConfig(
        height=HEIGHT,
        width=WIDTH,
        stem=stem,
        dim=32,
        encoder_blocks=1,
        decoder_blocks=1,
        num_heads=2,
        window=3,
        codebook=CodebookConfig(kind=kind, levels=(5, 4, 3), num_codes=50, code_dim=6),
    )
    net = Tokenizer(config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    first = None
    for _ in range(120):
        loss, metrics = net(frames)
        first = metrics["psnr"].item() if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert metrics["psnr"].item() > first + 8, f"{first:.1f} dB became {metrics['psnr']:.1f} dB"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 60}, "multiples"),
        ({"patch_size": 2}, "conv stem"),
        ({"dim": 100, "num_heads": 8}, "num_heads"),
    ],
)
def test_impossible_shape_is_refused(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        TokenizerConfig(**values)

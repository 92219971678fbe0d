"""The tokenizer: causal, the same with a cache, able to learn a clip by heart."""

import pytest
import torch
from conftest import HEIGHT, WIDTH, square_frames

from genie.codebook import CodebookConfig
from genie.errors import UserError
from genie.tokenizer import QuickFrameDecoder, Tokenizer, TokenizerConfig

FRAMES, CHANGED = 14, 6


def make(**values) -> Tokenizer:
    """A small one with random weights, large enough that different frames get different tokens."""
    torch.manual_seed(0)
    small = {
        "height": HEIGHT,
        "width": WIDTH,
        "dim": 32,
        "encoder_blocks": 1,
        "decoder_blocks": 2,
        "num_heads": 2,
        "window": 3,
        "codebook": CodebookConfig(levels=(5, 4, 3)),
    }
    tokenizer = Tokenizer(TokenizerConfig(**small | values)).eval()
    with torch.no_grad():
        for name, weight in tokenizer.stem.named_parameters():
            weight *= 0 if name.endswith("bias") else 3
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make()


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return square_frames(2, FRAMES, seed=1)[0]


def other_from(frames: torch.Tensor, first: int) -> torch.Tensor:
    other = frames.clone()
    other[:, first:] = 1 - other[:, first:]
    return other


@torch.no_grad()
def test_tokens_do_not_depend_on_later_frames(tokenizer: Tokenizer, frames: torch.Tensor):
    tokens, other = tokenizer.encode(frames), tokenizer.encode(other_from(frames, CHANGED))
    assert len(tokens.unique()) > 3, "a test on one token proves nothing"
    assert torch.equal(other[:, :CHANGED], tokens[:, :CHANGED]), "the past sees the future"
    assert not torch.equal(other[:, CHANGED], tokens[:, CHANGED]), "the frame itself is not seen"


@torch.no_grad()
def test_tokens_depend_on_the_frames_before(tokenizer: Tokenizer, frames: torch.Tensor):
    other = frames.clone()
    other[:, :CHANGED] = 1 - other[:, :CHANGED]
    assert not torch.equal(
        tokenizer.encode(other)[:, CHANGED:], tokenizer.encode(frames)[:, CHANGED:]
    )


def test_no_gradient_flows_from_codes_to_later_frames(tokenizer: Tokenizer, frames: torch.Tensor):
    latents = []
    hook = tokenizer.codebook.register_forward_pre_hook(lambda _, given: latents.append(given[0]))
    given = frames.clone().requires_grad_()
    tokenizer.encode(given)
    hook.remove()
    latents[0].unflatten(1, (FRAMES, -1))[:, CHANGED].sum().backward()
    reach = given.grad.abs().sum(dim=(0, 2, 3, 4))
    assert (reach[CHANGED + 1 :] == 0).all(), "an encoder's latent learns from later frames"
    assert (reach[CHANGED - 1 : CHANGED + 1] > 0).all(), "the encoder does not look back"


@torch.no_grad()
def test_pictures_do_not_depend_on_later_tokens(tokenizer: Tokenizer):
    tokens = torch.randint(60, (2, FRAMES, 24))
    other = tokens.clone()
    other[:, CHANGED:] = (other[:, CHANGED:] + 7) % 60
    found, wanted = tokenizer.decode(other), tokenizer.decode(tokens)
    assert torch.equal(found[:, :CHANGED], wanted[:, :CHANGED]), "a picture shows the future"
    assert not torch.allclose(found[:, CHANGED], wanted[:, CHANGED])


def test_no_gradient_flows_from_pictures_to_later_codes(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    tokens = torch.randint(60, (2, FRAMES, 24))
    codes = tokenizer.codebook.ids_to_codes(tokens.flatten(1)).detach().requires_grad_()
    monkeypatch.setattr(tokenizer.codebook, "ids_to_codes", lambda ids: codes)
    tokenizer.decode(tokens)[:, CHANGED].sum().backward()
    reach = codes.grad.unflatten(1, (FRAMES, 24)).abs().sum(dim=(0, 2, 3))
    assert (reach[CHANGED + 1 :] == 0).all(), "a picture learns from later codes"
    assert (reach[CHANGED - 1 : CHANGED + 1] > 0).all(), "the decoder does not look back"


@torch.no_grad()
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"stem": "linear", "window": 1},
        {"codebook": CodebookConfig(kind="vq", num_codes=60, code_dim=6), "window": 4},
    ],
    ids=["conv", "linear", "vq"],
)
def test_decoding_frame_by_frame_is_decoding_the_clip(values: dict):
    tokenizer = make(**values)
    tokens = torch.randint(60, (2, FRAMES, 24))
    wanted, decoder = tokenizer.decode(tokens), QuickFrameDecoder(tokenizer, torch.float32)
    ring = decoder.tokenizer.decoder.new_ring(2, 24)
    for t in range(FRAMES):
        found, newest = decoder(tokens[:, t], ring.past())
        ring.append(newest)
        difference = (found - wanted[:, t]).abs().max().item()
        assert difference < 1e-4, f"frame {t} differs by {difference} with a cache"


@torch.no_grad()
def test_a_frame_decoder_is_a_copy(frames: torch.Tensor):
    """Training the tokenizer on, or trying another number format, leaves the other as it was."""
    tokenizer = make()
    tokens = tokenizer.encode(frames)
    wanted = tokenizer.decode(tokens)
    decoder = QuickFrameDecoder(tokenizer, torch.bfloat16)
    assert torch.equal(tokenizer.decode(tokens), wanted), "the tokenizer itself became bf16"
    for weight in decoder.parameters():
        assert weight.dtype == torch.bfloat16 and not weight.requires_grad
        weight.zero_()
    assert torch.equal(tokenizer.decode(tokens), wanted), "the copy shares weights"


@torch.no_grad()
def test_a_clip_has_its_tokens_whatever_is_beside_it(tokenizer: Tokenizer, frames: torch.Tensor):
    assert torch.equal(tokenizer.encode(frames)[1:], tokenizer.encode(frames[1:]))


@torch.no_grad()
def test_pixels_are_where_their_token_is(tokenizer: Tokenizer):
    """Token n stands for row n // columns, column n % columns of the grid of patches."""
    assert tokenizer.config.grid == (4, 6) and tokenizer.config.num_tokens == 24
    tokens = torch.full((1, 1, 24), 30)
    other = tokens.clone()
    other[0, 0, 2 * 6 + 4] = 1
    change = (tokenizer.decode(other) - tokenizer.decode(tokens)).abs().sum(dim=(0, 1, 2))
    per_patch = change.unflatten(0, (4, 8)).unflatten(2, (6, 8)).sum(dim=(1, 3))
    assert per_patch.argmax() == 2 * 6 + 4, "the picture is put together in another order"


@pytest.mark.parametrize(
    ("stem", "codebook", "least"),
    [
        ("conv", CodebookConfig(levels=(5, 4, 3)), 8),
        ("conv", CodebookConfig(kind="vq", num_codes=64, code_dim=8), 6),
        ("linear", CodebookConfig(levels=(5, 4, 3)), 8),
    ],
    ids=["conv fsq", "conv vq", "linear fsq"],
)
def test_learns_one_batch_by_heart(stem: str, codebook: CodebookConfig, least: float):
    torch.manual_seed(0)
    frames = square_frames(2, 4, seed=2)[0]
    config = TokenizerConfig(
        height=HEIGHT,
        width=WIDTH,
        stem=stem,
        dim=32,
        encoder_blocks=1,
        decoder_blocks=1,
        num_heads=2,
        window=3,
        codebook=codebook,
    )
    tokenizer = Tokenizer(config)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=4e-3, weight_decay=0.0)
    psnrs = []
    for step in range(150):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * min(1, (150 - step) / 60)
        loss, metrics = tokenizer(frames)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        psnrs.append(float(metrics["psnr"]))
    assert psnrs[-1] > psnrs[5] + least, f"PSNR went from {psnrs[5]:.1f} to {psnrs[-1]:.1f} dB only"
    tokenizer.eval()
    with torch.no_grad():
        pictures = tokenizer.decode(tokenizer.encode(frames))
    psnr = -10 * (pictures - frames).square().mean(dim=(2, 3, 4)).log10().mean()
    assert psnr > psnrs[-1] - 1.5, "what is learnt in training does not come out by way of tokens"


def test_loss_is_the_error_with_changed_pixels_weighed_up():
    frames = torch.zeros(1, 3, 3, HEIGHT, WIDTH)
    frames[:, 2, :, :8] = 1  # a quarter of the picture changes, in the last of three frames
    losses = []
    for weight in (0.0, 4.0):
        tokenizer = make(changed_weight=weight)
        tokenizer.head = torch.nn.Sequential(_Grey(8))
        losses.append(tokenizer(frames)[0].item())
    error = 3 * (0.5**2 + 0.1 * 0.5)  # all pixels miss by one half, in three colours
    assert losses == pytest.approx([error, error]), "a weighted mean of equals must not change"
    tokenizer.head = torch.nn.Sequential(_Grey(8, value=0.0))
    share = 5 * (1 / 12) / (11 / 12 + 5 / 12)  # changed pixels count five times
    assert tokenizer(frames)[0].item() == pytest.approx(3 * 1.1 * share)


class _Grey(torch.nn.Module):
    """Stands in for the head: every pixel has one value."""

    def __init__(self, patch_size: int, value: float = 0.5) -> None:
        super().__init__()
        self.patch_size, self.value = patch_size, value

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        b, _, rows, columns = features.shape
        shape = (b, 3, rows * self.patch_size, columns * self.patch_size)
        return torch.full(shape, self.value) + 0 * features.sum()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 60}, "60x64"),
        ({"width": 12}, "64x12"),
        ({"patch_size": 2}, "patch_size is 2"),
        ({"patch_size": 0}, "patch_size"),
        ({"height": 72, "width": 72, "patch_size": 12}, "patch_size is 12"),
        ({"dim": 100, "num_heads": 8}, "dim 100"),
        ({"num_heads": 0}, "num_heads"),
        ({"window": 0}, "window"),
    ],
)
def test_impossible_shape_is_refused(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        Tokenizer(TokenizerConfig(**values))

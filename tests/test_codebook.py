"""Codebooks: ids and codes say the same, nothing collapses, gradients pass."""

import copy
import math
import pickle

import pytest
import torch
from torch import nn

from genie.codebook import Codebook, CodebookConfig
from genie.errors import UserError

DIM = 7
CONFIGS = {
    "fsq": CodebookConfig(kind="fsq", levels=(5, 4, 3)),
    "vq": CodebookConfig(kind="vq", num_codes=11, code_dim=6),
}


@pytest.fixture(params=CONFIGS)
def codebook(request: pytest.FixtureRequest) -> Codebook:
    torch.manual_seed(0)
    return Codebook(CONFIGS[request.param], DIM).eval()


def latents(batch_size: int = 3, num_tokens: int = 50, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(batch_size, num_tokens, DIM, generator=torch.manual_seed(1))


def test_codes_of_the_ids_are_the_codes_that_were_chosen(codebook: Codebook):
    codes, ids, _ = codebook(latents())
    assert ids.min() >= 0 and ids.max() < codebook.size
    assert len(ids.unique()) > 5, "a test on a single code proves nothing"
    torch.testing.assert_close(codebook.ids_to_codes(ids), codes, atol=1e-5, rtol=1e-5)


def test_every_id_has_a_code_of_its_own(codebook: Codebook):
    ids = torch.arange(codebook.size)[None]
    codes = codebook.ids_to_codes(ids)[0]
    assert codes.isfinite().all()
    distance = torch.cdist(codes, codes).fill_diagonal_(torch.inf)
    assert distance.min() > 1e-4, "two ids stand for the same code"


@pytest.mark.parametrize(
    ("levels", "factors"),
    [((8, 5, 5, 5), ()), ((8, 8, 8, 5, 5, 5), (512, 125)), ((8,) * 7, (512, 512, 8)), ((3,), ())],
)
def test_ids_of_a_large_grid_have_digits(levels: tuple[int, ...], factors: tuple[int, ...]):
    config = CodebookConfig(levels=levels)
    assert config.factors == factors
    assert not factors or math.prod(factors) == config.size
    assert CodebookConfig(kind="vq", num_codes=4096).factors == (), "vectors have no axes"


def test_every_grid_point_can_be_reached():
    torch.manual_seed(0)
    codebook = Codebook(CONFIGS["fsq"], DIM)
    _, ids, commitment = codebook(latents(num_tokens=8000, scale=5.0))
    assert ids.unique().tolist() == list(range(60)), "some ids of the grid never come up"
    assert commitment == 0, "a fixed grid has nothing to commit to"


def test_gradient_passes_straight_through(codebook: Codebook):
    codebook.train()
    given = latents().requires_grad_()
    codes, _, _ = codebook(given)
    (codes * torch.randn_like(codes)).sum().backward()
    assert given.grad is not None and given.grad.isfinite().all()
    assert (given.grad.abs().sum(dim=-1) > 0).all(), "some latents learn nothing"


def test_choice_does_not_depend_on_the_neighbours(codebook: Codebook):
    given = latents()
    _, ids, _ = codebook(given)
    _, alone, _ = codebook(given[1:2, 7:9])
    assert torch.equal(alone, ids[1:2, 7:9])


def test_evaluation_leaves_learnt_codes_alone():
    codebook = Codebook(CONFIGS["vq"], DIM).eval()
    before = {name: tensor.clone() for name, tensor in codebook.state_dict().items()}
    codebook(latents())
    for name, tensor in codebook.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} moved although nothing is being trained"


@pytest.mark.parametrize("seed", range(4))
def test_dead_codes_come_back_to_life(seed: int):
    """Some of eight clusters may go on sharing a code, since each has a code near enough."""
    torch.manual_seed(seed)
    codebook = Codebook(CodebookConfig(kind="vq", num_codes=8, code_dim=DIM), DIM)
    centres = 4 * nn.functional.normalize(torch.randn(8, DIM), dim=-1)
    # All codes start where no latent is, but one.
    learnt = codebook.quantizer._codebook.embed
    learnt.data[:] = -centres.sum(dim=0)
    learnt.data[:, 0] = centres[0]
    for _ in range(60):
        which = torch.randint(8, (4, 64))
        codebook(centres[which] + 0.05 * torch.randn(4, 64, DIM))
    _, ids, _ = codebook.eval()(centres[None])
    assert len(ids.unique()) >= 5, f"8 clusters share the codes {ids.unique().tolist()}"


def test_a_copy_learns_by_itself():
    """The trainer tries steps on copies of a net."""
    codebook = Codebook(CodebookConfig(kind="vq", num_codes=8, code_dim=DIM), DIM)
    before = {name: tensor.clone() for name, tensor in codebook.state_dict().items()}
    other = copy.deepcopy(codebook).train()
    for _ in range(60):  # long enough for codes to die and to be replaced
        other(torch.ones(1, 4, DIM))
    for name, tensor in codebook.state_dict().items():
        assert torch.equal(tensor, before[name]), f"{name} moved with the copy's"
    assert not torch.equal(other.quantizer._codebook.embed, codebook.quantizer._codebook.embed)


def test_a_codebook_goes_to_other_processes(codebook: Codebook):
    given = latents()
    other = pickle.loads(pickle.dumps(codebook.eval()))
    assert torch.equal(other(given)[1], codebook(given)[1])


def test_dead_codes_do_not_become_twins():
    """With fewer latents than dead codes, the others wait."""
    torch.manual_seed(0)
    codebook = Codebook(CodebookConfig(kind="vq", num_codes=8, code_dim=DIM), DIM)
    learnt = codebook.quantizer._codebook
    learnt.cluster_size.zero_()
    before = learnt.embed.clone()
    given = nn.functional.normalize(torch.randn(1, 3, DIM), dim=-1)
    learnt.expire_codes_(given)
    changed = (learnt.embed != before).any(dim=2)[0]
    assert changed.sum() == 3 and len(learnt.embed[0].unique(dim=0)) == 8


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": ()}, "levels"),
        ({"levels": (5, 1, 3)}, "levels"),
        ({"kind": "vq", "num_codes": 1}, "num_codes"),
        ({"kind": "vq", "num_codes": 0}, "num_codes"),
        ({"kind": "vq", "code_dim": 0}, "code_dim"),
    ],
)
def test_impossible_codebook_is_refused(values: dict, message: str):
    with pytest.raises(UserError, match=message):
        CodebookConfig(**values)


@pytest.mark.parametrize(("kind", "size"), [("fsq", 60), ("vq", 11)])
def test_size_counts_the_codes(kind: str, size: int):
    assert CONFIGS[kind].size == size
    assert Codebook(CONFIGS[kind], DIM).size == size

"""The sampler against stand-ins that record what they are shown."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.maskgit import digits, reveal
from genie.sampling import Pace, SamplingConfig, fill_frame

SIZE = 13
MASK = SIZE


class Recorder:
    """Stands in for a net: gives fixed logits and keeps each input."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits, self.seen = logits, []

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        self.seen.append(tokens.clone())
        return self.logits


def random_logits(batch_size: int, num_tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch_size, num_tokens, SIZE, generator=torch.Generator().manual_seed(seed))


def fill(predict, batch_size: int, num_tokens: int, seed: int = 0, **options) -> torch.Tensor:
    num_steps = options.pop("num_steps", 4)
    shape = batch_size, num_steps, 2, num_tokens
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return fill_by(predict, noise, **options)


def joint(logits: torch.Tensor, factors: tuple[int, int]) -> torch.Tensor:
    """Logits of tokens of two digits from those of their digits."""
    first, second = logits.split(factors, dim=-1)
    return (second[..., :, None] + first[..., None, :]).flatten(-2)


def fill_by(
    predict, noise: torch.Tensor, factors: tuple[int, ...] = (SIZE,), **options
) -> torch.Tensor:
    """The tokens of a frame that a stand-in gives the logits for."""
    mask_id = math.prod(factors)
    batch_size, num_steps, _, num_tokens = noise.shape
    defaults = {"temperature": 1.0, "choice_temperature": 1.0, "entropy_bound": 0.0}
    config = SamplingConfig(maskgit_steps=num_steps, **{**defaults, **options})

    def one_pass(tokens: np.ndarray, number: int, pace: Pace) -> np.ndarray:
        shown = torch.from_numpy(tokens)
        numbers = Pace(*(torch.from_numpy(np.asarray(each)) for each in pace))
        return reveal(predict(shown), shown, noise[:, number], factors, numbers).numpy()

    hidden = np.full((batch_size, num_tokens), mask_id)
    return torch.from_numpy(fill_frame(one_pass, hidden, mask_id, config))


@settings(deadline=None)
@given(
    num_tokens=st.integers(1, 70),
    num_steps=st.integers(1, 30),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    choice_temperature=st.sampled_from([0.0, 1.0, 4.5]),
    seed=st.integers(0, 1000),
)
def test_tokens_are_revealed_along_the_cosine_and_never_change(
    num_tokens, num_steps, temperature, choice_temperature, seed
):
    recorder = Recorder(random_logits(2, num_tokens, seed))
    tokens = fill(
        recorder,
        2,
        num_tokens,
        seed,
        num_steps=num_steps,
        temperature=temperature,
        choice_temperature=choice_temperature,
    )
    assert len(recorder.seen) == num_steps, "one pass each step"
    assert ((tokens >= 0) & (tokens < SIZE)).all(), "a token stayed hidden"
    for step, seen in enumerate(recorder.seen):
        wanted = math.floor(num_tokens * math.cos(math.pi / 2 * step / num_steps))
        hidden = seen == MASK
        assert (hidden.sum(dim=1) == wanted).all(), f"pass {step} hides other than {wanted} tokens"
        assert torch.equal(seen[~hidden], tokens[~hidden]), "a revealed token changed later"


def test_each_pass_sees_what_was_chosen_before():
    """The stand-in answers with how many tokens it is shown, so the answers tell who saw what."""

    def count_shown(tokens: torch.Tensor) -> torch.Tensor:
        shown = (tokens != MASK).sum(dim=1, keepdim=True).expand_as(tokens)
        return 50.0 * torch.nn.functional.one_hot(shown, SIZE).float()

    tokens = fill(count_shown, 3, 12, num_steps=4)
    left = [math.floor(12 * math.cos(math.pi / 2 * step / 4)) for step in range(5)]
    wanted = sorted(
        12 - before for before, after in itertools.pairwise(left)
        for _ in range(before - after)
    )  # fmt: skip
    assert tokens.sort(dim=1).values.tolist() == [wanted] * 3


def test_temperature_0_takes_the_most_likely_token():
    logits = random_logits(3, 20)
    for seed in range(3):
        tokens = fill(Recorder(logits), 3, 20, seed, temperature=0.0)
        assert torch.equal(tokens, logits.argmax(dim=-1))


def test_entropy_of_the_draws_grows_with_the_temperature():
    logits = random_logits(1, 4).expand(4000, -1, -1)
    entropies = []
    for temperature in (0.0, 0.25, 0.5, 1.0, 2.0):
        tokens = fill(Recorder(logits), 4000, 4, temperature=temperature, num_steps=2)
        share = torch.nn.functional.one_hot(tokens, SIZE).float().mean(dim=0)
        entropies.append(torch.special.entr(share).sum(dim=-1).mean().item())
    steps = [b - a for a, b in itertools.pairwise(entropies)]
    assert entropies[0] == 0 and min(steps) > 0.05, f"temperature has no effect: {entropies}"


def test_temperature_1_draws_from_the_nets_own_distribution():
    logits = random_logits(1, 3)
    tokens = fill(Recorder(logits.expand(20_000, -1, -1)), 20_000, 3, num_steps=1)
    share = torch.nn.functional.one_hot(tokens, SIZE).float().mean(dim=0)
    assert (share - logits[0].softmax(dim=-1)).abs().max() < 0.02


FACTORS = (5, 3)


def test_digits_are_drawn_independently_from_their_own_distributions():
    """By one random number for each token."""
    logits = 1.5 * torch.randn(1, 2, sum(FACTORS), generator=torch.Generator().manual_seed(0))
    noise = torch.rand(40_000, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    tokens = fill_by(Recorder(logits.expand(40_000, -1, -1)), noise, FACTORS)
    share = torch.nn.functional.one_hot(tokens, math.prod(FACTORS)).float().mean(dim=0)
    assert (share - joint(logits, FACTORS)[0].softmax(dim=-1)).abs().max() < 0.01


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_digits_are_as_sure_as_the_token_that_they_make(temperature: float):
    """The same tokens are revealed in the same passes, if noise at the ends draws the same."""
    logits = 3 * torch.randn(2, 20, sum(FACTORS), generator=torch.Generator().manual_seed(0))
    noise = torch.full((2, 6, 2, 20), 0.0)
    options = {"temperature": temperature, "choice_temperature": 0.0, "entropy_bound": 0.3}
    by_digits, whole = Recorder(logits), Recorder(joint(logits, FACTORS))
    tokens = fill_by(by_digits, noise, FACTORS, **options)
    assert torch.equal(tokens, fill_by(whole, noise, (math.prod(FACTORS),), **options))
    for one, other in zip(by_digits.seen, whole.seen, strict=True):
        assert torch.equal(one, other)


def test_digits_that_are_certain_are_drawn_whatever_the_noise():
    answer = torch.arange(math.prod(FACTORS))[None]
    parts = zip(digits(answer, FACTORS), FACTORS, strict=True)
    hot = [50.0 * torch.nn.functional.one_hot(digit, size) for digit, size in parts]
    for number in (2**-24, 0.5, 1 - 2**-24):
        noise = torch.full((1, 3, 2, math.prod(FACTORS)), number)
        assert torch.equal(fill_by(lambda _: torch.cat(hot, dim=-1), noise, FACTORS), answer)


def test_without_choice_noise_the_surest_tokens_come_first():
    logits = torch.zeros(1, 10, SIZE)
    logits[0, :, 0] = torch.arange(10.0) + 1  # the later, the surer
    recorder = Recorder(logits)
    fill(recorder, 1, 10, num_steps=5, temperature=0.0, choice_temperature=0.0)
    for seen in recorder.seen[1:]:
        num_hidden = int((seen == MASK).sum())
        assert (seen[0, :num_hidden] == MASK).all(), "an unsure token came before a sure one"


def test_choice_noise_changes_the_order():
    logits = torch.zeros(1, 10, SIZE)
    logits[0, :, 0] = 1 + 0.01 * torch.arange(10.0)
    orders = set()
    for seed in range(6):
        recorder = Recorder(logits)
        fill(recorder, 1, 10, seed, num_steps=5, temperature=0.0, choice_temperature=4.0)
        orders.add(tuple((recorder.seen[1] == MASK)[0].tolist()))
    assert len(orders) > 1, "the order is the same for every seed"


def test_certain_tokens_are_drawn_whatever_the_noise():
    """Also by numbers at the very ends of 0..1, where a cumulative sum is never quite exact."""
    answer = torch.arange(SIZE)[None]
    logits = 50.0 * torch.nn.functional.one_hot(answer, SIZE)
    for number in (2**-24, 0.5, 1 - 2**-24):
        noise = torch.full((1, 3, 2, SIZE), number)
        tokens = fill_by(lambda _: logits, noise)
        assert torch.equal(tokens, answer)


def test_same_seed_same_tokens_and_no_other_source_of_chance():
    logits = random_logits(2, 24)
    state = torch.random.get_rng_state()
    first = fill(Recorder(logits), 2, 24, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    assert torch.equal(fill(Recorder(logits), 2, 24, seed=5), first)
    assert not torch.equal(fill(Recorder(logits), 2, 24, seed=6), first)


@pytest.mark.parametrize("num_steps", [1, 24, 100])
def test_one_pass_and_more_passes_than_tokens_work(num_steps: int):
    recorder = Recorder(random_logits(2, 24))
    tokens = fill(recorder, 2, 24, num_steps=num_steps)
    assert len(recorder.seen) == num_steps and (tokens != MASK).all()
    assert (recorder.seen[0] == MASK).all(), "the first pass must see nothing of the frame"


@settings(deadline=None)
@given(
    num_steps=st.integers(2, 12),
    bound=st.floats(0.005, 3.0),
    choice_temperature=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 1000),
)
def test_a_pass_reveals_more_than_its_share_only_while_little_is_open(
    num_steps, bound, choice_temperature, seed
):
    logits = 3 * random_logits(2, 20, seed)
    entropy = torch.special.entr(logits.softmax(dim=-1)).sum(dim=-1)
    recorder = Recorder(logits)
    options = {"num_steps": num_steps, "choice_temperature": choice_temperature}
    tokens = fill(recorder, 2, 20, seed, entropy_bound=bound, **options)
    assert (tokens != MASK).all()
    for step, (before, after) in enumerate(itertools.pairwise([*recorder.seen, tokens]), start=1):
        assert torch.equal(after[before != MASK], before[before != MASK]), "a token changed later"
        share = 20 - math.floor(20 * math.cos(math.pi / 2 * step / num_steps))
        for row in range(2):
            shown = (before[row] == MASK) & (after[row] != MASK)
            assert shown.any() or (before[row] != MASK).all(), "a pass was for nothing"
            if shown.any() and (after[row] != MASK).sum() > share:
                open_before_last = entropy[row][shown].sum() - entropy[row][shown].max()
                assert open_before_last < 20 * bound + 1e-4


def test_a_frame_that_is_certain_takes_one_pass_whoever_is_beside():
    certain = 50.0 * torch.nn.functional.one_hot(torch.arange(12) % SIZE, SIZE)[None]
    unsure = random_logits(1, 12)
    for logits, num_passes in ((certain, 1), (unsure, 4), (torch.cat([certain, unsure]), 4)):
        recorder = Recorder(logits)
        tokens = fill(recorder, len(logits), 12, entropy_bound=0.1)
        assert len(recorder.seen) == num_passes
        if len(logits) == 2:
            assert (recorder.seen[1][0] != MASK).all(), "the certain one waits for the other"
            assert torch.equal(tokens[0], torch.arange(12) % SIZE)


def test_a_wider_bound_takes_fewer_passes():
    counts = []
    for bound in (0.0, 0.1, 0.4, 1.5, 40.0):
        recorder = Recorder(random_logits(1, 24))
        fill(recorder, 1, 24, num_steps=12, entropy_bound=bound)
        counts.append(len(recorder.seen))
    assert counts[0] == 12 and counts[-1] == 1 and counts == sorted(counts, reverse=True)
    assert len(set(counts)) >= 4, counts

"""Losses that adapt, in two real processes with other samples: all ranks must have the very same weights and parameters."""

from __future__ import annotations

import pytest
import torch

from calf.losses.adaptive import GeneralizedLossFunction
from calf.losses.balancing import CoVWeighting, SoftAdapt
from calf.losses.compound import RatioBalancedSum
from calf.losses.pixelwise import BCELoss, FocalLoss
from tests.losses.ranks import in_two_ranks

STEPS = 4


def batches(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and truth of all ranks, four samples, two for each."""
    generator = torch.Generator().manual_seed(step)
    y = (torch.rand(4, 1, 8, 8, generator=generator) < torch.tensor([0.1, 0.6, 0.3, 0.0]).view(-1, 1, 1, 1)).float()
    return 2 * torch.randn(y.shape, generator=generator) + step * (2 * y - 1), y


def losses() -> dict[str, torch.nn.Module]:
    def terms() -> dict[str, torch.nn.Module]:
        # means over samples, so that the mean over ranks is that of one process with all samples
        return {"bce": BCELoss(), "focal": FocalLoss(gamma=2.0, alpha=0.25)}

    return {
        "softadapt": SoftAdapt(terms(), beta=20.0, variant="original", history=3, every=1),
        "cov_weighting": CoVWeighting(terms(), decay=None),
        "ratio": RatioBalancedSum(terms(), reference="bce", variant="paper", start=1.0),
        "deterministic": GeneralizedLossFunction("deterministic", 1, (0.01, 100), 1e-10, "batch"),
        "exploratory": GeneralizedLossFunction("exploratory", 1, (0.01, 100), 1e-10, "batch"),
    }


def explored(loss: GeneralizedLossFunction, samples: slice) -> None:
    """Trials whose errors differ between samples, so that each rank alone would choose otherwise."""
    wanted = torch.tensor([1.1, 1.1, 0.9, 0.9])[samples].view(-1, 1, 1, 1)

    def trial() -> tuple[torch.Tensor, torch.Tensor]:
        error = (loss.settings[0] - wanted).abs() + (loss.settings[1] - 0.9).abs() + 0.1
        return error.expand(-1, 1, 4, 4).logit(), torch.zeros(len(wanted), 1, 4, 4)

    loss.explore(trial)


def states(samples: slice) -> dict[str, list[torch.Tensor]]:
    """What each loss has come to after each step of these samples."""
    found: dict[str, list[torch.Tensor]] = {}
    for name, loss in losses().items():
        for step in range(STEPS):
            if name == "exploratory":
                explored(loss, samples)
            if isinstance(loss, RatioBalancedSum):
                loss.start_epoch(step // 2, STEPS // 2)
            logits, y = batches(step)
            loss(logits[samples], y[samples])
            found.setdefault(name, []).append(state(loss))
    return found


def state(loss: torch.nn.Module) -> torch.Tensor:
    if isinstance(loss, RatioBalancedSum):
        return torch.cat([loss.sums, loss.ratio[None]])
    return (loss.settings if isinstance(loss, GeneralizedLossFunction) else loss.last_weights).clone()


def states_of_rank(rank: int) -> dict[str, list[torch.Tensor]]:
    return states(slice(2 * rank, 2 * rank + 2))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return in_two_ranks(states_of_rank, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", losses())
def test_all_ranks_have_the_very_same_state(ranks, name):
    for ours, theirs in zip(ranks[0][name], ranks[1][name], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", losses())
def test_the_state_is_that_of_one_process_with_all_samples(ranks, name):
    together, first, second = states(slice(0, 4))[name], states(slice(0, 2))[name], states(slice(2, 4))[name]
    torch.testing.assert_close(torch.stack(ranks[0][name]), torch.stack(together), rtol=1e-4, atol=1e-6)
    for alone in (first, second):
        assert not torch.allclose(torch.stack(alone), torch.stack(together), rtol=1e-3)

"""What `ddp` does, in two real processes whose batches differ in size."""

from __future__ import annotations

import pytest
import torch

from calf.imbalance import skewness_and_kurtosis
from calf.losses.calf import CALFLoss, RegionCALFLoss
from tests.losses.ranks import in_two_ranks

AREAS = [3, 5, 9, 14, 2, 30, 40]
FIRST = 4  # samples of the first rank


def masks(areas: list[int]) -> torch.Tensor:
    return (torch.arange(64) < torch.tensor(areas)[:, None]).float().view(-1, 1, 8, 8)


def chosen(rank: int) -> dict[tuple[str, str], tuple[torch.Tensor, ...]]:
    y = masks(AREAS[:FIRST] if rank == 0 else AREAS[FIRST:])
    results = {}
    for ddp in ("global", "local"):
        for name, loss in {
            "calf": CALFLoss("batch", "pixels", ddp, None),
            "region": RegionCALFLoss(2, "pixels", ddp, None),
        }.items():
            loss(torch.zeros_like(y), y)
            results[name, ddp] = loss.last_branch, loss.last_skewness, loss.last_kurtosis
    return results


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return in_two_ranks(chosen, tmp_path_factory.mktemp("ranks"))


def test_global_is_what_one_process_with_all_samples_would_choose(ranks):
    y = masks(AREAS)
    for name, loss in {
        "calf": CALFLoss("batch", "pixels", "global", None),
        "region": RegionCALFLoss(2, "pixels", "global", None),
    }.items():
        loss(torch.zeros_like(y), y)
        for rank in ranks:
            branch, skewness, kurtosis = rank[name, "global"]
            assert torch.equal(branch, loss.last_branch)
            torch.testing.assert_close(skewness, loss.last_skewness, equal_nan=True)
            torch.testing.assert_close(kurtosis, loss.last_kurtosis, equal_nan=True)


def test_all_ranks_have_the_very_same_numbers(ranks):
    for name in ("calf", "region"):
        for ours, theirs in zip(ranks[0][name, "global"], ranks[1][name, "global"], strict=True):
            assert torch.equal(ours.nan_to_num(99), theirs.nan_to_num(99))


def test_local_is_what_each_rank_would_choose_alone(ranks):
    for rank, areas in zip(ranks, (AREAS[:FIRST], AREAS[FIRST:]), strict=True):
        skewness, kurtosis = skewness_and_kurtosis(torch.tensor(areas)[:, None])
        assert torch.equal(rank["calf", "local"][1], skewness)
        assert torch.equal(rank["calf", "local"][2], kurtosis)
    assert not torch.equal(ranks[0]["calf", "local"][1], ranks[0]["calf", "global"][1])

from __future__ import annotations

import pytest
import torch

from calf.losses.compound import WeightedSum
from tests.losses.zoo import build, config

LOGITS = torch.randn(2, 1, 6, 7, generator=torch.Generator().manual_seed(0))
TARGET = (torch.rand(2, 1, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.7).float()


def test_the_terms_are_those_of_the_sibling_files():
    terms = config("bce_dice").terms
    assert terms.bce == config("bce")
    assert terms.dice == config("dice")


def test_an_argument_of_a_term_can_be_overridden():
    changed = build("bce_dice", "loss.terms.dice.alpha=0.3")
    expected = build("bce")(LOGITS, TARGET) + build("dice", "loss.alpha=0.3")(LOGITS, TARGET)
    torch.testing.assert_close(changed(LOGITS, TARGET), expected)


def test_the_sum_is_weighted():
    value = build("bce_dice", "loss.weights.bce=0.25", "loss.weights.dice=3")(LOGITS, TARGET)
    torch.testing.assert_close(value, 0.25 * build("bce")(LOGITS, TARGET) + 3 * build("dice")(LOGITS, TARGET))


@pytest.mark.parametrize("weights", [{}, {"bce": 1.0}, {"bce": 1.0, "dise": 1.0}])
def test_a_term_without_weight_and_a_weight_without_term_are_named(weights):
    with pytest.raises(ValueError, match=r"a weight for each term, got terms \['bce', 'dice'\]"):
        WeightedSum({"bce": build("bce"), "dice": build("dice")}, weights)

"""Sums of losses. A sum is a configuration, not a class: its YAML composes those of its terms."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class WeightedSum(nn.Module):
    """``sum(weights[name] * terms[name](logits, target))``.

    Args:
        terms: losses by name.
        weights: a number for each of them.

    Raises:
        ValueError: terms and weights have different names, or there are none.
    """

    def __init__(self, terms: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise ValueError(f"expected a weight for each term, got terms {sorted(terms)} and weights {sorted(weights)}")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: float(weight) for name, weight in weights.items()}

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        total: Tensor = sum(self.weights[name] * term(logits, target) for name, term in self.terms.items())
        return total

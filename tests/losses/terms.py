"""What the tests of compound losses are tried on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = 3 * torch.randn(3, 4, 8, 6, 10, generator=GENERATOR)
INDICES = torch.randint(0, 3, (3, 8, 6, 10), generator=GENERATOR)  # class 3 is absent
INDICES[0] = 0  # in one sample all are
CHANNELS = (torch.rand(3, 4, 8, 6, 10, generator=GENERATOR) > 0.8).float()
CHANNELS[0] = 0


class Given(nn.Module):
    """A loss whose values are listed, one for each call."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.values = list(values)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.sum() * 0 + self.values.pop(0)


def call(loss: nn.Module, times: int = 1) -> list[float]:
    return [float(loss(torch.zeros(1, requires_grad=True), torch.zeros(1)).detach()) for _ in range(times)]

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from calf.models.unet3d import build


def test_a_step_on_a_copy_of_the_weights_leaves_the_network_as_it_is():
    network, volumes = build(2, 1, [4, 8, 8], [1, 2, 2]), torch.rand(1, 2, 8, 8, 16)
    before, expected = {name: value.clone() for name, value in network.state_dict().items()}, network(volumes)
    moved = functional_call(network, {name: 2 * weight.detach() for name, weight in network.named_parameters()}, (volumes,))
    assert not torch.allclose(moved, expected)
    assert torch.equal(network(volumes), expected)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_levels_without_strides_are_refused():
    with pytest.raises(ValueError, match=r"as many model\.channels as model\.strides"):
        build(2, 1, [4, 8, 8], [1, 2])

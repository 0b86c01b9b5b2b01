from __future__ import annotations

import pytest
import torch

from calf.losses.calf import BRANCHES, CALFLoss, branch_losses
from calf.losses.margin import cell_sums, into_cells
from tests.losses.published import AREAS, CLAMP, squares
from tests.losses.zoo import HostReads, value_and_gradient


def test_cells_are_cut_row_by_row():
    image = torch.arange(4 * 6).view(1, 1, 4, 6).expand(2, 3, 4, 6)
    cells = into_cells(image, 2)
    assert cells.shape == (2, 3, 2, 2, 2, 3)
    assert cells[0, 0].movedim(1, 2).flatten(2).tolist() == [
        [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]],
        [[12, 13, 14, 18, 19, 20], [15, 16, 17, 21, 22, 23]],
    ]
    assert into_cells(torch.zeros(2, 3, 4, 6, 8), 2).shape == (2, 3, 2, 2, 2, 3, 2, 4)


def test_an_image_that_the_grid_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"4 cells divide .* got \(59, 44\).* never trained"):
        into_cells(torch.zeros(1, 1, 59, 44), 4)


def test_sums_are_numbered_channel_by_channel_and_row_by_row():
    volume = torch.arange(2 * 3 * 4 * 4 * 4.0).view(2, 3, 4, 4, 4)
    expected = [
        [
            sample[channel, i : i + 2, j : j + 2, k : k + 2].sum().item()
            for channel in range(3)
            for i in (0, 2)
            for j in (0, 2)
            for k in (0, 2)
        ]
        for sample in volume
    ]
    assert cell_sums(into_cells(volume, 2)).tolist() == expected


@pytest.mark.parametrize("spatial", [(6, 10), (4, 6, 2)], ids=["2d", "3d"])
@pytest.mark.parametrize("branch", [*BRANCHES, "mixed"])
@pytest.mark.parametrize("height", [2, 12], ids=["within the clamp", "beyond the clamp"])
def test_the_path_without_host_equals_the_one_with_if(branch, height, spatial):
    """On an accelerator all forms are computed and the device picks; on the CPU each cell has only its own."""
    generator = torch.Generator().manual_seed(0)
    y = into_cells((torch.rand(3, 2, *spatial, generator=generator) < 0.3).double(), 2)
    logits = height * torch.randn(3, 2, *spatial, generator=generator, dtype=torch.float64)
    pixels = cell_sums(y)
    chosen = torch.arange(pixels.shape[1])
    chosen = chosen % 6 if branch == "mixed" else torch.full_like(chosen, BRANCHES.index(branch))
    weight = torch.linspace(-1, 2, len(chosen))
    results = []
    for known in (chosen.tolist(), None):
        losses = []

        def total(z, y, known=known, losses=losses):
            losses.append(branch_losses(into_cells(z, 2), y, pixels, chosen, CLAMP, known))
            return (losses[-1] * weight).sum()

        results.append((*value_and_gradient(total, logits, y), losses[0].detach()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [4, 4, 4, 5], [5, 5, 5, 3], [0, 5, 0, 0], [2, 2, 1, 1]], ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_the_gradient_is_the_derivative_in_any_mixture(chosen, known):
    generator = torch.Generator().manual_seed(0)
    y = into_cells((torch.rand(2, 1, 4, 6, generator=generator) < 0.4).double(), 2)
    logits = (3 * torch.randn(2, 1, 4, 6, generator=generator, dtype=torch.float64)).requires_grad_()

    def losses(z):
        cut = into_cells(z, 2)
        return branch_losses(cut, y, cell_sums(y), torch.tensor(chosen), CLAMP, chosen if known else None)

    assert torch.autograd.gradcheck(losses, (logits,))


@pytest.mark.parametrize("form", ["channels last", "expanded", "transposed"])
def test_any_strides_will_do(form):
    y = torch.cat([squares(AREAS["ln"]), squares(AREAS["fisher"])], dim=1)
    logits = torch.randn(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    if form == "expanded":
        logits = logits[:1, :1].expand(4, 2, 8, 8)
    strided = {
        "channels last": logits.to(memory_format=torch.channels_last),
        "expanded": logits,
        "transposed": logits.mT.contiguous().mT,
    }
    loss = CALFLoss("batch", "pixels", "global", CLAMP)
    expected = value_and_gradient(loss, logits.contiguous(), y)
    torch.testing.assert_close(value_and_gradient(loss, strided[form], y), expected)


@pytest.mark.parametrize("branch", BRANCHES)
def test_the_backward_pass_may_be_repeated(branch):
    y = squares(AREAS[branch])
    logits = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), requires_grad=True)
    value = CALFLoss("batch", "pixels", "global", CLAMP)(logits, y)
    first, second = (torch.autograd.grad(value, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_only_the_cpu_reads_on_the_host():
    y = squares(AREAS["ln"])
    for device, waits in (("cpu", True), ("meta", False)):
        with HostReads() as reads:
            CALFLoss("batch", "pixels", "local", CLAMP).compute(torch.zeros_like(y, device=device), y.to(device))
        assert bool(reads.found) == waits, device

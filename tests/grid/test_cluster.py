from __future__ import annotations

import pytest

from hydra_plugins.calf_grid._cluster import GIB, Node, Share, share


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Node(1, 0), Share(1, 0)),
        (Node(2, 0), Share(1, 0)),
        (Node(4, 0), Share(2, 0)),
        (Node(16, 0), Share(2, 0)),
        (Node(64, 0), Share(8, 0)),
        (Node(16, 1), Share(16, 1)),
        (Node(64, 8), Share(8, 1)),
        (Node(4, 8), Share(1, 1)),
    ],
)
def test_by_default_a_job_holds_its_part_of_the_machine(node: Node, expected: Share) -> None:
    assert share([node], None, None, None, None) == expected


def test_every_option_is_seen() -> None:
    node = [Node(16, 2, 64 * GIB)]
    assert share(node, 3, None, None, None) == Share(3, 1)
    assert share(node, None, 0.25, None, None) == Share(2, 0.25)
    assert share(node, None, 0, None, None) == Share(2, 0)
    assert share(node, None, 2, None, None) == Share(16, 2)
    assert share(node, None, None, 1.5, None) == Share(8, 1, 3 * GIB // 2)
    assert share(node, None, None, None, 1) == Share(16, 1)
    assert share([Node(16, 0)], None, None, None, 3) == Share(5, 0)
    # more jobs at once than GPUs: the GPUs decide
    assert share(node, None, None, None, 8) == Share(8, 1)


def test_on_a_cluster_a_job_fits_on_the_smallest_machine_that_can_take_it() -> None:
    assert share([Node(64, 8), Node(8, 2), Node(2, 0)], None, None, None, None) == Share(4, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, 2, None), "gpus_per_job=2"),
        ((9, 0, None), "cpus_per_job=9"),
        ((None, 0, 5.0), "memory_per_job_gb=5.0"),
        ((None, 1.5, None), "fraction of one GPU or a whole number, got 1.5"),
    ],
)
def test_a_job_that_fits_nowhere_is_refused(options: tuple[int | None, float | None, float | None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        share([Node(8, 1, 4 * GIB)], *options, None)

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import instantiate
from numpy.testing import assert_allclose
from torch import nn

from calf.losses.balancing import CoVWeighting, SoftAdapt, UncertaintyWeighting, first_derivative, softadapt_weights
from tests.losses.zoo import CONF, build, regions

LOGITS = torch.randn(2, 1, 6, 7, generator=torch.Generator().manual_seed(0))
TARGET = (torch.rand(2, 1, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.7).float()

#: The example in the README of the authors of SoftAdapt: three terms over five epochs.
README = np.array([[1, 2, 3, 4, 5], [150, 100, 50, 10, 0.1], [1500, 1000, 500, 100, 1]]).T


class Scripted(nn.Module):
    """A loss whose values are told beforehand, with a gradient of ones."""

    def __init__(self, values):
        super().__init__()
        self.values = iter(values)

    def forward(self, logits, target):
        return next(self.values) + logits.sum() - logits.detach().sum()


def scripted(course):
    """Terms that take the values of the columns, one row a step."""
    return {f"term {k}": Scripted([float(value) for value in column]) for k, column in enumerate(np.transpose(course))}


def weights_of(loss, num_steps):
    """What the terms weigh in each step."""
    found = []
    for _ in range(num_steps):
        loss(LOGITS, TARGET)
        found.append(loss.last_weights.tolist())
    return np.array(found)


@pytest.mark.parametrize("name", ["softadapt", "cov_weighting", "uncertainty"])
class TestEveryBalancedSum:
    def test_the_terms_are_those_of_the_sibling_files(self, name):
        values = torch.stack([build(term)(LOGITS, TARGET) for term in ("bce", "dice")])
        share = 0.5 if name == "cov_weighting" else 1.0
        torch.testing.assert_close(build(name)(LOGITS, TARGET), share * values.sum())

    def test_a_term_is_added_and_dropped_on_the_command_line(self, name):
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(CONF), version_base="1.3"):
            overrides = [f"loss={name}", "+loss@loss.terms.focal=focal", "~loss.terms.dice", "loss.terms.focal.gamma=1"]
            config = compose("train", overrides).loss
        loss = instantiate(config, _convert_="all")
        assert list(loss.terms) == ["bce", "focal"]
        assert loss.terms["focal"].gamma == 1
        assert loss.last_weights.shape == (2,)

    def test_one_term_alone_is_refused(self, name):
        with pytest.raises(ValueError, match=r"at least two terms to balance, got \['bce'\]"):
            type(build(name))({"bce": build("bce")}, **{"softadapt": SOFTADAPT, "cov_weighting": {"decay": None}}.get(name, {}))

    def test_a_resumed_run_goes_on_with_the_same_numbers(self, name):
        cases = [regions("binary", (9, 8), seed=seed) for seed in range(6)]
        logits = [torch.randn(target.shape, generator=torch.Generator().manual_seed(7)) for target in cases]

        def course(loss, steps):
            values = []
            for step in steps:
                if step % 2 == 0 and name == "softadapt":
                    loss.start_epoch(step // 2, 3)
                values.append(float(loss(logits[step], cases[step]).detach()))
            return values

        options = {"softadapt": ["loss.beta=50", "loss.history=2"]}.get(name, [])
        kept, stopped, resumed = (build(name, *options) for _ in range(3))
        expected = course(kept, range(6))
        course(stopped, range(3))
        resumed.load_state_dict(stopped.state_dict())
        assert course(resumed, range(3, 6)) == expected[3:]

    def test_without_training_nothing_is_taken_in(self, name):
        loss = build(name, *(["loss.every=1"] if name == "softadapt" else []))
        before = {key: value.clone() for key, value in loss.state_dict().items()}
        with torch.no_grad():
            loss(LOGITS, TARGET)
        loss.eval()
        loss(LOGITS, TARGET)
        assert all(torch.equal(value, before[key]) for key, value in loss.state_dict().items())


SOFTADAPT = {"beta": 0.1, "variant": "original", "history": 5, "every": 1}


class TestSoftAdapt:
    @pytest.mark.parametrize(
        ("variant", "expected"),
        [
            ("original", [0.99343, 0.0065666, 3.89e-22]),
            ("normalized_signed", [0.3221, 0.3251, 0.3528]),
            ("loss_weighted", [0.87978, 0.12022, 7.12e-20]),
        ],
    )
    def test_the_numbers_of_the_authors_readme(self, variant, expected):
        course = [*README, README[0]]
        loss = SoftAdapt(scripted(course), **SOFTADAPT | {"variant": variant})
        assert_allclose(weights_of(loss, 6)[5], expected, rtol=5e-4)

    def test_normalized_slopes_keep_their_signs(self):
        points, slopes = torch.tensor([[1.0, 1.0, 1.0], [0.5, 0.75, 1.25]]), np.array([-0.5, -0.25, 0.25])
        expected = np.exp(2 * slopes / 1) / np.exp(2 * slopes / 1).sum()
        assert_allclose(softadapt_weights(points, torch.tensor(first_derivative(2)), 2.0, "normalized"), expected, rtol=1e-6)

    def test_where_all_terms_fall_the_signed_sum_turns_the_order_round(self):
        points, stencil = torch.tensor([[1.0, 1.0], [0.4, 0.8]]), torch.tensor(first_derivative(2))
        rank = {v: softadapt_weights(points, stencil, 1.0, v).tolist() for v in ("original", "normalized", "normalized_signed")}
        assert rank["original"][0] < rank["original"][1]
        assert rank["normalized"][0] < rank["normalized"][1]
        assert rank["normalized_signed"][0] > rank["normalized_signed"][1]

    @pytest.mark.parametrize("variant", ["original", "normalized", "normalized_signed", "loss_weighted"])
    @pytest.mark.parametrize("beta", [-100.0, 0.0, 1e4])
    def test_weights_are_finite_and_sum_to_1(self, variant, beta):
        for points in ([[1.0, 1.0], [1.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]], [[1e4, 1e-4], [1.0, 1.0]], [[0.0, 1.0], [0.0, 2.0]]):
            weights = softadapt_weights(torch.tensor(points), torch.tensor(first_derivative(2)), beta, variant)
            assert weights.isfinite().all()
            assert weights.sum().item() == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("num_points", [2, 3, 5, 8])
    def test_the_slope_is_exact_for_polynomials_that_the_points_determine(self, num_points):
        polynomial = np.polynomial.Polynomial(np.arange(1, num_points + 1) / 7)
        at_the_oldest = np.dot(first_derivative(num_points), polynomial(np.arange(num_points)))
        assert at_the_oldest == pytest.approx(polynomial.deriv()(0))

    def test_until_there_are_two_points_all_terms_weigh_1_and_then_those_there_are_count(self):
        course = [[1.0, 2.0], [0.8, 1.9], [0.7, 1.7], [0.6, 1.7]]
        found = weights_of(SoftAdapt(scripted(course), **SOFTADAPT | {"beta": 3.0}), 4)
        assert_allclose(found[:2], 1)
        for step, num_points in ((2, 2), (3, 3)):
            slopes = np.dot(first_derivative(num_points), course[:num_points])
            assert_allclose(found[step], np.exp(3 * slopes) / np.exp(3 * slopes).sum(), rtol=1e-5)

    def test_the_oldest_point_makes_way(self):
        course = [[9.0, 0.0], [1.0, 2.0], [0.8, 1.9], [0.7, 1.7]]
        found = weights_of(SoftAdapt(scripted(course), **SOFTADAPT | {"history": 2, "beta": 1.0}), 4)
        slopes = np.array([-0.2, -0.1])
        assert_allclose(found[3], np.exp(slopes) / np.exp(slopes).sum(), rtol=1e-5)

    def test_a_point_is_a_mean_of_steps_or_of_an_epoch(self):
        course = [[1.0, 2.0], [3.0, 4.0], [1.0, 5.0], [0.0, 2.0], [0.0, 0.0]]
        options = SOFTADAPT | {"beta": 1.0, "history": 2}
        by_steps = weights_of(SoftAdapt(scripted(course), **options | {"every": 2}), 5)
        loss = SoftAdapt(scripted(course), **options | {"every": "epoch"})
        by_epochs = []
        for epoch, num_steps in enumerate((2, 2, 1)):
            loss.start_epoch(epoch, 3)
            loss.start_epoch(epoch, 3)  # a resumed run says it again
            by_epochs.extend(weights_of(loss, num_steps))
        slopes = np.array([0.5 - 2.0, 3.5 - 3.0])
        assert_allclose(by_steps[:4], 1)
        assert_allclose(by_steps[4], np.exp(slopes) / np.exp(slopes).sum(), rtol=1e-5)
        assert_allclose(by_epochs, by_steps)

    def test_an_epoch_that_is_resumed_in_its_middle_is_one_point(self):
        options = SOFTADAPT | {"every": "epoch"}
        stopped, resumed = SoftAdapt(scripted([[1.0, 2.0]]), **options), SoftAdapt(scripted([[3.0, 4.0]]), **options)
        stopped.start_epoch(0, 2)
        stopped(LOGITS, TARGET)
        resumed.load_state_dict(stopped.state_dict())
        resumed.start_epoch(0, 2)
        resumed(LOGITS, TARGET)
        resumed.start_epoch(1, 2)
        assert resumed.num_points == 1
        assert resumed.points[-1].tolist() == [2.0, 3.0]

    def test_eval_mode_keeps_the_weights(self):
        loss = SoftAdapt(scripted([[1.0, 2.0], [0.5, 3.0], [1.0, 1.0], [1.0, 1.0]]), **SOFTADAPT | {"beta": 1.0})
        weights_of(loss, 3)
        weights = loss.weights()
        loss.eval()
        assert_allclose(loss(LOGITS, TARGET).detach(), weights.sum())
        assert not torch.equal(weights, torch.ones(2))

    def test_only_the_loss_weighted_variant_refuses_negative_terms(self):
        course = [[1.0, -0.5]] * 2
        SoftAdapt(scripted(course), **SOFTADAPT)(LOGITS, TARGET)
        with pytest.raises(ValueError, match=r"terms of at least 0, got term 1 = -0\.5"):
            SoftAdapt(scripted(course), **SOFTADAPT | {"variant": "loss_weighted"})(LOGITS, TARGET)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [({"variant": "signed"}, "variant"), ({"history": 1}, "history"), ({"every": 0}, "every"), ({"every": "step"}, "every")],
    )
    def test_an_impossible_argument_is_named(self, arguments, message):
        with pytest.raises(ValueError, match=f"expected {message}"):
            SoftAdapt(scripted([[1.0, 2.0]]), **SOFTADAPT | arguments)


def published_cov_weights(course, decay):
    """The authors' update, step by step, without guards."""
    weights, mean_loss, mean_ratio, squares = [], 0.0, 0.0, 0.0
    for t, values in enumerate(np.asarray(course)):
        ratio = values / (values if t == 0 else mean_loss)
        c = np.sqrt(squares / t + 1e-8) / mean_ratio if t > 1 else np.ones_like(values)
        weights.append(c / c.sum())
        keep = 0.0 if t == 0 else 1 - 1 / (t + 1) if decay is None else decay
        newer = keep * mean_ratio + (1 - keep) * ratio
        squares = squares + (ratio - mean_ratio) * (ratio - newer)
        mean_ratio, mean_loss = newer, keep * mean_loss + (1 - keep) * values
    return weights


class TestCoVWeighting:
    def test_the_golden_table(self):
        course = np.transpose([[1, 0.9, 0.8, 0.7, 0.65], [1, 0.5, 0.3, 0.2, 0.15]])
        found = weights_of(CoVWeighting(scripted(course), decay=None), 5)
        expected = [[0.5, 0.5], [0.5, 0.5], [0.1364, 0.8636], [0.1469, 0.8531], [0.1652, 0.8348]]
        assert_allclose(found, expected, atol=5e-5)

    @pytest.mark.parametrize("decay", [None, 0.0, 0.9])
    def test_it_is_the_published_update(self, decay):
        course = np.random.default_rng(0).uniform(0.1, 2, (40, 3))
        found = weights_of(CoVWeighting(scripted(course), decay), 40)
        assert_allclose(found, published_cov_weights(course, decay), rtol=1e-4)
        assert_allclose(found.sum(1), 1, rtol=1e-6)

    @pytest.mark.parametrize("start", [[0.0], [0.0, 0.0, 0.0], [1e-30]], ids=str)
    def test_a_term_that_begins_at_0_spoils_nothing(self, start):
        course = [[value, 1.0] for value in start] + [[0.5, 0.9], [0.4, 0.8], [0.3, 0.7], [0.35, 0.7]]
        found = weights_of(CoVWeighting(scripted(course), decay=None), len(course))
        assert np.isfinite(found).all()
        assert_allclose(found.sum(1), 1, rtol=1e-6)
        assert (found[-1] > 0.05).all()

    def test_a_term_that_is_always_0_gets_next_to_nothing(self):
        course = [[0.0, 1.0], [0.0, 0.5], [0.0, 0.7], [0.0, 0.6]]
        assert weights_of(CoVWeighting(scripted(course), decay=None), 4)[3][0] < 1e-3

    def test_eval_mode_is_the_plain_sum(self):
        loss = CoVWeighting(scripted([[1.0, 2.0], [0.5, 2.0], [0.2, 2.0], [3.0, 4.0]]), decay=None)
        weights_of(loss, 3)
        loss.eval()
        assert loss(LOGITS, TARGET) == 7

    def test_negative_terms_are_refused_where_the_host_sees_them_and_count_0_elsewhere(self):
        course = [[1.0, -1.0], [0.5, -1.1], [0.4, -1.2], [0.3, -1.3]]
        with pytest.raises(ValueError, match="CoVWeighting needs terms of at least 0, got term 1 = -1"):
            CoVWeighting(scripted(course), decay=None)(LOGITS, TARGET)
        with mock.patch("torch.compiler.is_compiling", return_value=True):
            found = weights_of(CoVWeighting(scripted(course), decay=None), 4)
        assert (found >= 0).all()
        assert (found <= 1).all()

    @pytest.mark.parametrize("decay", [-0.1, 1.0])
    def test_an_impossible_decay_is_named(self, decay):
        with pytest.raises(ValueError, match=f"got {decay}"):
            CoVWeighting(scripted([[1.0, 2.0]]), decay)


@pytest.mark.parametrize("name", ["softadapt", "cov_weighting"])
def test_a_compiled_loss_remembers_as_well(name):
    loss, plain = (build(name, *(["loss.every=1", "loss.beta=20"] if name == "softadapt" else [])) for _ in range(2))
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for step in range(4):
        torch.testing.assert_close(compiled((1 + step) * LOGITS, TARGET), plain((1 + step) * LOGITS, TARGET))
    torch.testing.assert_close(loss.last_weights, plain.last_weights)
    assert plain.last_weights.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("kind", ["softadapt", "cov_weighting"])
@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_step_with_a_loss_that_is_not_finite_counts_as_none(kind, lost):
    good = [[1.0, 2.0], [0.8, 1.9], [0.7, 1.1], [0.6, 1.2]]

    def last_weights(course):
        terms = scripted(course)
        loss = SoftAdapt(terms, **SOFTADAPT | {"beta": 5.0}) if kind == "softadapt" else CoVWeighting(terms, decay=None)
        return weights_of(loss, len(course))[-1]

    assert_allclose(last_weights([good[0], [lost, 1.0], *good[1:]]), last_weights(good))


def test_the_weights_are_no_part_of_the_gradient():
    loss = CoVWeighting({"bce": build("bce"), "dice": build("dice")}, decay=None)
    for step in range(4):
        logits = ((1 + step) * LOGITS).requires_grad_()
        loss(logits, TARGET).backward()
        weights = loss.last_weights
        again = ((1 + step) * LOGITS).requires_grad_()
        (weights[0] * build("bce")(again, TARGET) + weights[1] * build("dice")(again, TARGET)).backward()
        torch.testing.assert_close(logits.grad, again.grad)


class TestUncertaintyWeighting:
    def test_it_is_the_formula(self):
        loss = UncertaintyWeighting(scripted([[0.7, 0.2, 1.5]]))
        s = np.array([0.3, -1.0, 2.0])
        loss.log_variances.data = torch.tensor(s, dtype=torch.float32)
        assert loss(LOGITS, TARGET).item() == pytest.approx(np.sum(np.exp(-s) * [0.7, 0.2, 1.5] + s), rel=1e-6)
        assert_allclose(loss.last_weights, np.exp(-s), rtol=1e-6)

    def test_learned_variances_end_where_each_term_weighs_the_inverse_of_its_loss(self):
        loss = UncertaintyWeighting(scripted([[0.5, 0.1]] * 400))
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        for _ in range(400):
            optimizer.zero_grad()
            loss(LOGITS, TARGET).backward()
            optimizer.step()
        assert_allclose(loss.last_weights, [2.0, 10.0], rtol=1e-3)

    def test_a_negative_term_is_refused(self):
        with pytest.raises(ValueError, match=r"UncertaintyWeighting needs terms of at least 0, got term 0 = -0\.1"):
            UncertaintyWeighting(scripted([[-0.1, 1.0]]))(LOGITS, TARGET)

"""The generalised loss function: its formula, its updates, its trial steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from calf.losses.adaptive import CANDIDATES, GeneralizedLossFunction, _factor
from tests.losses.region_cases import every_empty, every_form, every_shape, one_against_the_rest, over_samples, random_case
from tests.losses.zoo import certain


def glf(update="deterministic", every=1, bounds=(1e-3, 1e3), smooth=1e-10, empty="batch"):
    return GeneralizedLossFunction(update, every, bounds, smooth, empty)


def squared_counts(p, y):
    return np.sum((p * y) ** 2), np.sum((p * (1 - y)) ** 2), np.sum(((1 - p) * y) ** 2)


def published_factor(x, y):
    """The authors' five cases, all strict; None on a tie."""
    cases = {0.5: x < y / 15, 0.75: y / 15 < x < y / 2, 1.0: y / 2 < x < 2 * y, 1.25: 2 * y < x < 15 * y, 1.5: x > 15 * y}
    return next((factor for factor, holds in cases.items() if holds), None)


def published_update(settings, p, y, s=1e-10):
    tp, fp, fn = squared_counts(p, y)
    alpha_p = settings[0] * (1 if fp < 5 else published_factor(tp, fp))
    alpha_n = settings[1] * (1 if fn < 1 else published_factor(tp, fn))
    precision, recall = (tp + s) / (tp + alpha_p * fp + s), (tp + s) / (tp + alpha_n * fn + s)
    return alpha_p, alpha_n, settings[2] * published_factor(recall, precision)


def published_loss(settings, p, y, s=1e-10):
    tp, fp, fn = squared_counts(p, y)
    alpha_p, alpha_n, b = settings
    return 1 - ((1 + b) * tp + s) / ((1 + b) * tp + alpha_p * fp + b * alpha_n * fn + s)


class TestGeneralizedLossFunction:
    @every_form
    @every_shape
    @every_empty
    def test_it_is_the_formula(self, form, spatial, empty):
        logits, target = random_case(form, spatial)
        loss = glf("none", smooth=1e-2, empty=empty)
        loss.settings = torch.tensor([0.5, 3.0, 2.0])
        p, y = one_against_the_rest(logits, target)
        expected = over_samples(lambda p, y: published_loss((0.5, 3.0, 2.0), p, y, 1e-2), p, y, empty)
        assert_allclose(loss(logits, target), expected)

    @pytest.mark.parametrize("beta2", [1.0, 4.0])
    def test_of_a_mask_it_is_dice_and_f_beta(self, beta2):
        target = torch.zeros(1, 1, 4, 4)
        target[..., :2, :] = 1
        predicted = torch.full_like(target, -100.0)
        predicted[..., 1:, :2] = 100  # 2 hit, 4 false, 6 missed
        loss = glf("none")
        loss.settings = torch.tensor([1.0, 1.0, beta2])
        expected = 1 - (1 + beta2) * 2 / ((1 + beta2) * 2 + 4 + beta2 * 6)
        assert loss(predicted, target).item() == pytest.approx(expected)

    @every_form
    def test_the_deterministic_update_is_the_published_one(self, form):
        loss, settings = glf(), (1.0, 1.0, 1.0)
        seen = []
        for seed in range(12):
            logits, target = random_case(form, (9, 8), seed)
            logits = logits + (seed % 4) * certain(form, target, 1.0)
            p, y = one_against_the_rest(logits, target)
            settings = published_update(settings, p, y)
            value = loss(logits, target)
            assert_allclose(loss.settings, settings, rtol=1e-5)
            expected = np.mean([published_loss(settings, p[:, c], y[:, c]) for c in range(p.shape[1])])
            assert_allclose(value, expected, rtol=1e-5)
            seen.append(settings)
        assert len({alpha_p for alpha_p, _, _ in seen}) > 3

    def test_few_errors_do_not_move_their_weight(self):
        target = torch.zeros(1, 1, 8, 8)
        target[..., :4, :] = 1
        for false, missed, expected in ((4, 0, (1.0, 1.0)), (6, 0, (1.25, 1.0)), (0, 2, (1.0, 1.25)), (6, 2, (1.25, 1.5))):
            logits = 100 * (2 * target - 1)
            logits[..., 7, :false] = 100
            logits[..., 0, :missed] = -100
            loss = glf()
            loss(logits, target)
            hit = 32 - missed
            alpha_n = 1.0 if missed == 0 else (1.5 if hit / missed > 15 else 1.25)
            assert loss.settings[:2].tolist() == [expected[0], alpha_n], (false, missed)

    @pytest.mark.parametrize(
        ("x", "y", "factor"),
        [(1.0, 15.0, 0.75), (1.0, 2.0, 1.0), (2.0, 1.0, 1.0), (15.0, 1.0, 1.25), (0.0, 0.0, 1.0), (np.nan, 1.0, 1.0)],
    )
    def test_a_tie_takes_the_side_nearer_to_1(self, x, y, factor):
        assert published_factor(x, y) is None
        assert _factor(torch.tensor(x), torch.tensor(y)) == factor

    def test_the_bounds_hold_where_the_product_would_overflow(self):
        target = torch.zeros(1, 1, 16, 16)
        target[..., 8:, :] = 1
        logits = 100 * (2 * target - 1)
        logits[..., 0, :6] = 100
        bounded, unbounded = glf(bounds=(0.1, 10)), glf(bounds=(1e-38, torch.inf))
        for _ in range(300):
            value = bounded(logits, target)
            unbounded(logits, target)
        assert bounded.settings[0] == 10
        assert value.isfinite()
        assert unbounded.settings[0].isinf()

    def test_every_step_counts_but_not_every_one_updates(self):
        logits, target = random_case("binary", (9, 8), 3)
        once, thrice, third = glf(), glf(), glf(every=3)
        once(logits, target)
        for _ in range(3):
            thrice(logits, target)
            third(logits, target)
        assert not torch.equal(once.settings, thrice.settings)
        assert torch.equal(once.settings, third.settings)

    def test_without_training_or_gradients_nothing_changes(self):
        logits, target = random_case("binary", (9, 8), 3)
        loss, none = glf(), glf("none")
        with torch.no_grad():
            first = loss(logits, target)
        loss.eval()
        second = loss(logits, target)
        assert loss.steps == 0
        assert torch.equal(loss.settings, torch.ones(3))
        assert first == second == none(logits, target)

    def test_a_step_may_come_before_the_backward_pass_of_the_last(self):
        loss = glf()
        cases = [random_case("binary", (9, 8), seed) for seed in (3, 4)]
        together = [logits.clone().requires_grad_() for logits, _ in cases]
        values = [loss(logits, target) for logits, (_, target) in zip(together, cases, strict=True)]
        sum(values).backward()
        loss = glf()
        for (logits, target), one in zip(cases, together, strict=True):
            alone = logits.clone().requires_grad_()
            loss(alone, target).backward()
            assert torch.equal(alone.grad, one.grad)

    def test_what_a_step_has_lost_numbers_in_leaves_the_parameters(self):
        logits, target = random_case("binary", (9, 8), 3)
        loss = glf()
        loss(logits * torch.nan, target)
        assert torch.equal(loss.settings, torch.ones(3))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"update": "random"}, "update"),
            ({"every": 0}, "every"),
            ({"bounds": (0.0, 2.0)}, "bounds"),
            ({"bounds": (2.0, 3.0)}, "bounds"),
            ({"bounds": (0.5,)}, "bounds"),
            ({"smooth": 0.0}, "smooth"),
            ({"empty": "mean"}, "empty"),
        ],
    )
    def test_an_impossible_argument_is_named(self, arguments, message):
        with pytest.raises(ValueError, match=f"expected {message}"):
            glf(**arguments)


class Trials:
    """Trial steps whose errors are told beforehand, and what the loss's parameters were in each."""

    def __init__(self, loss, errors):
        self.loss, self.errors, self.settings = loss, errors, []

    def __call__(self):
        target = torch.zeros(2, 1, 4, 4)
        error = self.errors[len(self.settings)]
        self.settings.append(self.loss.settings.tolist())
        return torch.logit(torch.full_like(target, error)), target


class TestExploration:
    def test_the_candidate_with_the_smallest_error_is_kept(self):
        loss = glf("exploratory")
        errors = [0.5] * 27
        errors[11] = 0.1
        trials = Trials(loss, errors)
        loss.explore(trials)
        assert sorted(map(tuple, np.round(trials.settings, 6))) == sorted(CANDIDATES)
        assert loss.settings.tolist() == pytest.approx(CANDIDATES[11])
        loss.explore(Trials(loss, errors))
        assert loss.settings.tolist() == pytest.approx([factor**2 for factor in CANDIDATES[11]])

    def test_a_draw_leaves_the_parameters(self):
        loss = glf("exploratory")
        loss.explore(Trials(loss, [0.3] * 27))
        assert torch.equal(loss.settings, torch.ones(3))

    def test_an_error_that_is_no_number_never_wins(self):
        loss = glf("exploratory")
        loss.explore(Trials(loss, [torch.nan] * 26 + [0.9]))
        assert loss.settings.tolist() == pytest.approx(CANDIDATES[26])

    def test_candidates_stay_within_the_bounds(self):
        loss = glf("exploratory", bounds=(0.95, 1.05))
        trials = Trials(loss, [0.5] * 26 + [0.1])
        loss.explore(trials)
        assert {round(x, 6) for settings in trials.settings for x in settings} == {0.95, 1.0, 1.05}

    def test_it_searches_every_so_many_steps(self):
        loss = glf("exploratory", every=3)
        searched = []
        for _ in range(6):
            trials = Trials(loss, [0.5] * 27)
            loss.explore(trials)
            searched.append(len(trials.settings))
        assert searched == [27, 0, 0, 27, 0, 0]

    @pytest.mark.parametrize("update", ["none", "deterministic", "exploratory"])
    def test_it_searches_in_training_with_its_own_update_only(self, update):
        loss = glf(update)
        loss.train(update != "exploratory")
        trials = Trials(loss, [0.5] * 27)
        loss.explore(trials)
        assert trials.settings == []

    def test_a_failing_trial_leaves_the_parameters(self):
        loss = glf("exploratory")
        with pytest.raises(IndexError):
            loss.explore(Trials(loss, [0.5] * 3))
        assert torch.equal(loss.settings, torch.ones(3))

    def test_the_steps_of_a_network_decide(self):
        """Each trial is one step of a copy; the winner is the candidate whose copy is best after it."""
        generator = torch.Generator().manual_seed(0)
        image, target = torch.rand(2, 1, 8, 8, generator=generator), torch.zeros(2, 1, 8, 8)
        target[:, :, 2:4, 2:5] = 1
        torch.manual_seed(0)
        network, loss = torch.nn.Conv2d(1, 1, 3, padding=1), glf("exploratory")
        errors = []

        def trial():
            own = copy.deepcopy(network)
            loss(own(image), target).backward()
            with torch.no_grad():
                for weight in own.parameters():
                    weight -= 10 * weight.grad
                logits = own(image)
            errors.append(float(((logits.sigmoid() - target) ** 2).mean()))
            return logits, target

        loss.explore(trial)
        assert len(set(errors)) > 20
        assert loss.settings.tolist() == pytest.approx(CANDIDATES[int(np.argmin(errors))])
        assert min(errors) < errors[0]

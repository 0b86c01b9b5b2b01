"""Intervals and tests on simulated studies whose truth is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def simulation() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "simulation.py"
    spec = importlib.util.spec_from_file_location("simulation", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# simulated studies


@pytest.mark.parametrize("values", ["skewed", "8 % missed", "hard cases missed", "30 % missed"])
def test_intervals_cover_the_mean_of_50_patients(simulation, values):
    assert 0.93 <= simulation.coverage(simulation.COVERAGE[values], 50, 1000)["bootstrap-t"] <= 0.97


@pytest.mark.parametrize("values", ["skewed", "hard cases missed"])
def test_losses_that_are_alike_are_seldom_told_apart(simulation, values):
    found = simulation.errors(values, 50, 300)
    assert found["sign flips"] <= 0.06
    assert found["best, all pairs"] <= 0.06
    assert found["best, its own pairs"] > 0.06  # why the family is all pairs

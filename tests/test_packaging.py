"""pyproject.toml, constraints.txt and environment.yml say the same, and so do the Makefile, .ci/run and CITATION.cff."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
PINS = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def pinned() -> dict[str, Version]:
    return {canonicalize_name(name): Version(version) for name, version in (pin.split("==") for pin in PINS)}


def required() -> list[Requirement]:
    return [Requirement(text) for texts in (PROJECT["project"]["dependencies"], *EXTRAS.values()) for text in texts]


@pytest.mark.parametrize("pin", PINS)
def test_a_constraint_is_a_name_and_a_version(pin: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+]+", pin), "no address, no option, no file: NAME==VERSION"


def test_constraints_are_sorted_and_each_is_there_once() -> None:
    names = [pin.split("==")[0].lower() for pin in PINS]
    assert names == sorted(names)
    assert len({canonicalize_name(name) for name in names}) == len(names)


def test_no_file_names_an_index_of_packages() -> None:
    for name in ("pyproject.toml", "constraints.txt", "environment.yml", "Makefile", ".ci/run"):
        assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host|://\S*(pypi|simple)", (ROOT / name).read_text())


def test_every_dependency_is_pinned_and_its_pin_is_allowed() -> None:
    for requirement in required():
        assert canonicalize_name(requirement.name) in pinned(), f"{requirement.name} is missing from constraints.txt"
        assert pinned()[canonicalize_name(requirement.name)] in requirement.specifier


def test_whatever_a_dependency_needs_is_pinned() -> None:
    """Every package within reach in this environment, followed through the metadata of what is installed."""
    waiting, seen = required(), set()
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = distribution(requirement.name).requires or []
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        assert key[0] in pinned(), f"{requirement.name} is missing from constraints.txt"
        for need in map(Requirement, needs):
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in (*requirement.extras, "")):
                waiting.append(need)


def test_conda_installs_the_same_through_pip() -> None:
    python, pip, through_pip = ENVIRONMENT["dependencies"]
    assert pip == "pip"
    assert through_pip == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    assert 'pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"' in MAKEFILE
    assert python.split("=")[0] == "python"


def test_one_version_of_python_everywhere() -> None:
    conda = ENVIRONMENT["dependencies"][0].split("=")[1]
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert conda == PROJECT["tool"]["mypy"]["python_version"] == "3.11"
    assert PROJECT["tool"]["ruff"]["target-version"] == "py" + conda.replace(".", "")
    assert [minor for minor in range(20) if f"3.{minor}" in allowed] == [11, 12]
    assert "(3, 11) <= sys.version_info[:2] <= (3, 12)" in MAKEFILE
    assert re.findall(r"for python in (.*); do", MAKEFILE) == ["python3.11 python3.12 python3 python"]


def test_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert "2504.04458" in citation["preferred-citation"]["url"]


def test_continuous_integration_runs_what_the_makefile_offers() -> None:
    commands = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith("make ")]
    assert commands == ["make check", "make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111, ".ci/run must be executable"


@needs_make
def test_make_alone_lists_every_target() -> None:
    targets = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, flags=re.MULTILINE)[0].split()
    assert targets == ["help", "setup", "demo", "test", "chromium", "check", "bench", "screenshots", "clean"]
    shown = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[1] for line in shown.splitlines()] == targets
    assert all(len(line.split()) > 3 for line in shown.splitlines()), "each with a line of help"


@needs_make
def test_make_without_a_fitting_python_says_what_is_needed(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    make = subprocess.run(
        [str(shutil.which("make")), "setup"], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert make.returncode != 0
    assert "calf needs Python 3.11 or 3.12, found none" in make.stderr
    assert not (tmp_path / ".venv").exists()

"""A broken pin is named in one sentence at start-up, with what one would see and what to type."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from wordmask.environment import packages as self_check
from wordmask.environment.packages import BrokenEnvironmentError, find_problems, require_sound_environment


def versions(**known: str) -> Callable[[str], str | None]:
    return known.get


def requires(**known: list[str]) -> Callable[[str], list[str]]:
    return lambda name: known.get(name, [])


def test_this_environment_is_sound() -> None:
    assert find_problems() == []


def test_a_package_that_is_too_new_is_named_with_its_symptom_and_the_command() -> None:
    (problem,) = find_problems(["pydicom>=2.4.4,<3"], versions(pydicom="3.0.1"), requires())
    assert problem.startswith("pydicom 3.0.1 is installed, but WordMask needs pydicom<3,>=2.4.4")
    assert "pydicom._storage_sopclass_uids" in problem
    assert 'pip install "pydicom<3,>=2.4.4"' in problem


def test_a_missing_package_is_named() -> None:
    (problem,) = find_problems(["monailabel==0.8.5"], versions(), requires())
    assert problem.startswith("monailabel is not installed")


def test_requirements_of_extras_and_of_other_pythons_are_not_asked_for() -> None:
    wanted = ['ruff>=99; extra == "dev"', 'tomli>=99; python_version < "3.9"']
    assert find_problems(wanted, versions(), requires()) == []


@pytest.mark.parametrize(
    ("torch", "torchvision", "fits"),
    [
        ("2.14.1", "0.29.1", True),
        ("2.14.1+cpu", "0.29.1+cpu", True),
        ("2.14.1+cpu", "0.29.1", False),
        ("2.13.0", "0.29.1", False),
    ],
)
def test_torchvision_built_for_another_torch_is_noticed(
    torch: str, torchvision: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_check.platform, "machine", lambda: "x86_64")
    problems = find_problems(
        [], versions(torch=torch, torchvision=torchvision), requires(torchvision=["numpy", "torch==2.14.1"])
    )
    assert [("torchvision::nms" in problem) for problem in problems] == ([] if fits else [True])


def test_a_package_that_is_not_installed_itself_says_so() -> None:
    (problem,) = find_problems(None, versions(), requires())
    assert "WordMask is not installed" in problem


def test_the_first_problem_is_raised_and_the_others_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "find_problems", lambda: ["numpy is wrong.", "torch is wrong."])
    with pytest.raises(
        BrokenEnvironmentError, match=r"^numpy is wrong\. \(2 problems in all: `wordmask check`\)$"
    ):
        require_sound_environment()


def test_every_upper_bound_has_its_symptom() -> None:
    capped = {
        text.split("<")[0].split(">")[0].split("=")[0].strip()
        for text in _own_requirements()
        if "<" in text or "==" in text
    }
    assert capped == set(self_check.SYMPTOMS)


def _own_requirements() -> list[str]:
    return [text for text in self_check.installed_requirements("wordmask") if "extra ==" not in text]


def test_versions_report_what_is_missing() -> None:
    report: Mapping[str, str] = self_check.versions(["numpy", "no-such-package"])
    assert report["no-such-package"] == "not installed"
    assert report["numpy"][0].isdigit()

"""What keeps a commit from being tagged. Building and trying the wheel is left to `make release-check`."""

import importlib.util
import subprocess

import pytest
from helpers.paths import ROOT

import ratelimit

CHANGELOG = "# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2026-11-30\n\n- A change.\n"


@pytest.fixture(scope="module")
def release():
    """scripts/release.py as a module."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(folder, *arguments):
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path):
    """A repository with version 1.2.3 and its changelog, all committed."""
    (tmp_path / "ratelimit").mkdir()
    (tmp_path / "ratelimit" / "__init__.py").write_text('"""A package."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--message", "All of it")
    return tmp_path


def test_the_version_is_that_of_the_package(release):
    """It is read without importing anything."""
    assert release.version(ROOT) == ratelimit.__version__


def test_a_clean_commit_with_its_changes_can_be_tagged(release, checkout):
    """Nothing is in the way."""
    assert release.obstacles(checkout) == []


def test_a_tree_that_is_not_clean_is_not_tagged(release, checkout):
    """A file that nobody committed would not be in the tag."""
    (checkout / "forgotten.py").touch()
    (obstacle,) = release.obstacles(checkout)
    assert obstacle.startswith("the tree is not clean")


def test_a_version_is_not_tagged_twice(release, checkout):
    """The version has to be raised first."""
    git(checkout, "tag", "v1.2.3")
    (obstacle,) = release.obstacles(checkout)
    assert obstacle.startswith("the tag v1.2.3 exists")


@pytest.mark.parametrize(
    ("number", "changelog", "has"),
    [
        ("1.2.3", CHANGELOG, True),
        ("1.2.3", CHANGELOG + "\n## 1.2.2 - 2026-10-01\n\n- Another.\n", True),
        ("1.2.2", CHANGELOG, False),
        ("1.2.30", CHANGELOG, False),
        ("1.2.3", CHANGELOG.replace(" - 2026-11-30", ""), False),  # a section without a date
        ("1.2.3", CHANGELOG.replace("- A change.\n", ""), False),  # a section without a change
        ("1.2.3", "# Changelog\n\n## Unreleased\n\n- 1.2.3\n", False),
    ],
)
def test_a_version_needs_its_section_of_the_changelog(release, number, changelog, has):
    """Dated, and not empty."""
    assert release.has_changes(changelog, number) is has

"""One version: the package's own, which the metadata of the installation and of a citation repeat."""

import tomllib
from pathlib import Path

import yaml

from large_batch_sweeps import __version__

ROOT = Path(__file__).parents[2]


def test_the_version_is_kept_in_one_place() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["project"]["dynamic"] == ["version"]
    assert settings["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "large_batch_sweeps.__version__"}


def test_a_citation_names_this_version() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == __version__

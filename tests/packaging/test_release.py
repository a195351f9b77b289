"""What a release needs that no build checks: one version, and a README that reads right on an index's page."""

import os
import re

import pytest

from support.commands import ROOT, run

WORKFLOW = ROOT / ".github/workflows/wheels.yml"
REPOSITORY = {"GITHUB_SERVER_URL": "https://a.host", "GITHUB_REPOSITORY": "someone/project", "GITHUB_SHA": "0123abc"}


def version_in(name, pattern):
    (version,) = re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE)
    return version


def test_the_citation_has_the_version():
    assert version_in("CITATION.cff", r"^version: (.*)$") == version_in("pyproject.toml", r'^version = "(.*)"$')


@pytest.mark.skipif(not WORKFLOW.exists(), reason="needs a checkout: the source archive has no workflows")
def test_the_published_readme_has_no_relative_links(tmp_path):
    """The workflow's own line, run on a copy."""
    before = (ROOT / "README.md").read_text()
    (tmp_path / "README.md").write_text(before)
    (command,) = re.findall(r"^ +(perl .* README\.md)$", WORKFLOW.read_text(), re.MULTILINE)
    run(["bash", "-c", command], cwd=tmp_path, env=os.environ | REPOSITORY)
    after = (tmp_path / "README.md").read_text()
    of_the_commit = r"https://a\.host/someone/project/(?:raw|blob)/0123abc/"
    assert re.sub(of_the_commit, "", after) == before
    links = re.findall(r"(!?)\[[^]]*\]\(([^)]*)\)", re.sub(r"```.*?```", "", after, flags=re.DOTALL))
    assert ("!", "https://a.host/someone/project/raw/0123abc/docs/ratios.png") in links
    assert ("", "https://a.host/someone/project/blob/0123abc/docs/install.md") in links
    assert all(link.startswith("https://") for _, link in links)
    assert re.findall(r"```.*?```", after, re.DOTALL) == re.findall(r"```.*?```", before, re.DOTALL)

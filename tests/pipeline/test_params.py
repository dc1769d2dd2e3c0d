from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipeline.params import read_params, use_profile
from stages.sae import load_variants
from store.problem import Problem
from tests.project import TinyProject

ROOT = Path(__file__).parents[2]


def test_the_projects_own_parameters_are_valid() -> None:
    params = read_params(ROOT)
    assert params.profile.name == "embedded" and params.profile.harvest.layer_list == [11]
    assert list(params.profiles) == ["embedded", "gemma-2-2b", "gpt2", "pythia-70m"]
    table = load_variants(ROOT / "variants.yaml")
    assert set(params.run.variants) <= set(table)


def test_the_default_profile_has_the_sizes_of_the_design() -> None:
    profile = read_params(ROOT).profile
    sizes = (profile.train.d_sae, profile.train.k, profile.train.batch_rows, profile.train.steps)
    assert sizes == (2304, 32, 16, 4000)
    assert (profile.harvest.context, profile.harvest.packing, profile.corpus.tokens) == (128, "concat", None)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["harvest", "contxt"], 64, "profiles.tiny.harvest.contxt: unknown parameter (allowed: layers, context"),
        (["harvest", "packing"], "dense", "profiles.tiny.harvest.packing"),
        (["train", "k"], 0, "train.k"),
        (["harvest", "layers"], "5-x", "These are not layers"),
        (["harvest", "heldout"], 0, "heldout documents"),
        (["harvest", "context"], "many", "profiles.tiny.harvest.context"),
        (["corpus", "tokens"], -5, "tokens"),
    ],
)
def test_wrong_parameters_are_refused_by_name(
    project: TinyProject, path: list[str], value: object, message: str
) -> None:
    project.params["profiles"]["tiny"][path[0]][path[1]] = value
    project.save()
    status, out, err = project("profiles")
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err


@pytest.mark.parametrize(("name", "value"), [("seeds", [-1]), ("seeds", []), ("variants", [])])
def test_runs_that_cannot_be_are_refused(project: TinyProject, name: str, value: list) -> None:
    project.params["run"][name] = value
    project.save()
    status, _, err = project("train")
    assert status == 2 and f"run.{name}" in err and "Traceback" not in err


def test_use_changes_one_line(project: TinyProject) -> None:
    path = project.root / "params.yaml"
    before = path.read_text()
    use_profile(project.root, "deeper")
    assert read_params(project.root).profile.name == "deeper"
    use_profile(project.root, "tiny")
    assert path.read_text() == before


def test_the_real_file_keeps_its_comments_when_a_profile_is_used(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text)
    use_profile(tmp_path, "gpt2")
    changed = (tmp_path / "params.yaml").read_text()
    assert yaml.safe_load(changed)["profile"]["name"] == "gpt2"
    assert [a for a, b in zip(text.splitlines(), changed.splitlines(), strict=True) if a != b] == [
        "profile: *embedded # the current one"
    ]


def test_a_profile_without_an_anchor_of_its_name_cannot_be_used(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("\nprofile: *", "\n  mine: {<<: *gpt2, name: mine}\n\nprofile: *")
    (tmp_path / "params.yaml").write_text(text)
    assert "mine" in read_params(tmp_path).profiles
    with pytest.raises(Problem, match="would not name that profile") as caught:
        use_profile(tmp_path, "mine")
    assert "&mine" in str(caught.value.expected) and caught.value.exit_status == 2
    assert (tmp_path / "params.yaml").read_text() == text


def test_a_profile_is_called_what_a_folder_can_be(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    odd = text.replace("  gpt2: &gpt2", '  "../out": &gpt2').replace("name: gpt2\n", 'name: "../out"\n')
    (tmp_path / "params.yaml").write_text(odd)
    with pytest.raises(Problem, match="cannot be used") as caught:
        read_params(tmp_path)
    assert "profiles.../out.name" in str(caught.value.found) and "letters, digits" in str(caught.value.found)


def test_sources_in_the_project_are_found_from_its_subfolders(project: TinyProject) -> None:
    (project.root / "texts").mkdir()
    (project.root / "texts" / "a.txt").write_text("Some text of its own.\n" * 400)
    project.params["profiles"]["tiny"]["corpus"]["source"] = "texts"
    project.save()
    (project.root / "below").mkdir()
    for folder, did in ((project.root, "harvested"), (project.root / "below", "already complete")):
        project.patch.chdir(folder)
        status, out, err = project("harvest")
        assert status == 0 and did in out, err


def test_an_unknown_profile_names_the_known_ones(project: TinyProject) -> None:
    with pytest.raises(Problem, match="no profile named 'huge'") as caught:
        use_profile(project.root, "huge")
    assert caught.value.expected == "tiny, deeper"

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

import store
from pipeline.params import read_params
from tests.project import TinyProject


@pytest.fixture
def harvested(project: TinyProject) -> TinyProject:
    status, _, err = project("harvest")
    assert status == 0, err
    return project


def test_the_whole_line(project: TinyProject) -> None:
    """harvest, train, evaluate, report, each twice: the second time there is nothing to do."""
    status, out, err = project("harvest")
    assert status == 0, err
    assert "data/stores/tiny-L1: harvested" in out and "root digest" in out
    assert "nothing to do" in project("harvest")[1]
    status, out, err = project("train")
    assert status == 0, err
    assert "runs/tiny/baseline/seed0" in out and "runs/tiny/topk/seed0" in out
    assert "data/stores/tiny-L1" in err
    training = json.loads((project.root / "runs/tiny/topk/seed0/training.json").read_text())
    assert training["steps_done"] == training["steps_planned"] == 40
    weights = project.root / "runs/tiny/topk/seed0/sae/sae_weights.safetensors"
    before = weights.stat().st_mtime_ns
    assert project("train")[0] == 0 and weights.stat().st_mtime_ns == before
    status, out, err = project("evaluate")
    assert status == 0, err
    summary = json.loads((project.root / "results/tiny/topk/seed0/summary.json").read_text())
    assert summary["steps_done"] == 40 and 0 < summary["l0"] <= 4
    assert "results/tiny/comparison.parquet, .csv and .json: 2 runs" in out
    table = pd.read_csv(project.root / "results/tiny/comparison.csv").set_index(["variant", "metric"])
    assert table.value["topk", "l0"] == summary["l0"]
    status, out, err = project("report")
    assert status == 0, err
    page = (project.root / "report/tiny/index.html").read_text()
    assert "topk" in page and "baseline" in page


def test_an_sae_that_was_not_trained_here(harvested: TinyProject, tmp_path: Path) -> None:
    assert harvested("train", "--variant", "topk")[0] == 0
    shared = shutil.copytree(harvested.root / "runs/tiny/topk/seed0/sae", tmp_path / "from" / "elsewhere")
    status, out, err = harvested("evaluate", str(shared))
    assert status == 0 and f"results/tiny/{tmp_path.name}-from-elsewhere-" in out and "/foreign: evaluated" in out, err
    status, _, err = harvested("report")
    assert status == 0, err
    page = (harvested.root / "report/tiny/index.html").read_text()
    assert "from-elsewhere" in page and "not trained here" in page and "nan" not in page
    copy = shutil.copytree(harvested.root / "data/stores/tiny-L1", tmp_path / "copy")
    assert harvested("harvest", "--tokens", "900")[0] == 0
    (other,) = (harvested.root / "data/stores").glob("tiny-L1-????????")
    for named in (copy, other):
        status, out, err = harvested("evaluate", str(shared), "--store", str(named))
        assert status == 0 and f"/foreign-{store.open(named).root[:8]}: evaluated" in out, err
    status, out, err = harvested("evaluate", str(shared), "--store", "data/stores/tiny-L1")
    assert status == 0 and "/foreign: finished before" in out, err


def test_results_of_elsewhere_have_folders_of_their_own(harvested: TinyProject, tmp_path: Path) -> None:
    """Two runs that are both called `seed0`, a run named twice, and runs behind a link to another disk."""
    assert harvested("train")[0] == 0
    runs = harvested.root / "runs"
    shutil.move(runs, tmp_path / "disk")
    runs.symlink_to(tmp_path / "disk")
    places = [tmp_path / "disk/tiny" / name / "seed0" for name in ("topk", "baseline", "topk")]
    status, out, err = harvested("evaluate", *map(str, places))
    assert status == 0, err
    assert "results/tiny/topk/seed0: evaluated" in out and "results/tiny/baseline/seed0: evaluated" in out
    for name in ("topk", "baseline"):
        shutil.copytree(tmp_path / "disk/tiny" / name / "seed0", tmp_path / name / "seed0")
    status, out, err = harvested("evaluate", str(tmp_path / "topk/seed0"), str(tmp_path / "baseline/seed0"))
    assert status == 0 and f"results/tiny/{tmp_path.name}-topk-seed0-" in out and out.count(": evaluated") == 2, err
    shutil.copytree(tmp_path / "topk/seed0", tmp_path / "x" / tmp_path.name / "topk/seed0")
    again = tmp_path / "x" / tmp_path.name / "topk/seed0"
    status, out, err = harvested("evaluate", str(again))  # a copy of the same
    assert status == 0 and "finished before" in out, err
    shutil.rmtree(again)
    shutil.copytree(tmp_path / "baseline/seed0", again)
    status, out, err = harvested("evaluate", str(again))
    assert status == 0 and ": evaluated" in out, err
    assert len(list((harvested.root / "results/tiny").glob(f"{tmp_path.name}-topk-seed0-*/core.json"))) == 2


def test_what_is_damaged_is_not_evaluated(harvested: TinyProject) -> None:
    assert harvested("train")[0] == 0
    shard = next((harvested.root / "data/stores/tiny-L1").glob("activations.zarr/layers/1/resid_post/c/0/0/0"))
    weights = harvested.root / "runs/tiny/topk/seed0/sae/sae_weights.safetensors"
    messages = {shard: "A file of this store is damaged", weights: "The SAE of this run is damaged"}
    for path, message in messages.items():
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        path.write_bytes(damaged)
        status, _, err = harvested("evaluate")
        assert status == 1 and message in err and not list(harvested.root.glob("results/tiny/**/core.json"))
        path.write_bytes(whole)
    assert harvested("evaluate")[0] == 0


def test_what_an_older_version_left_does_not_stop_the_others(harvested: TinyProject) -> None:
    assert harvested("train")[0] == harvested("evaluate")[0] == 0
    path = harvested.root / "results/tiny/topk/seed0/temporal.json"
    shutil.copytree(path.parent, path.parent.with_name("seed7"))
    old = path.parent.with_name("seed7") / path.name
    old.write_text(json.dumps({**json.loads(old.read_text()), "fingerprint": "older"}))
    for command in ("evaluate", "report"):
        status, _, err = harvested(command)
        assert status == 0 and "topk/seed7" in err and "delete this folder" in err, err


def test_a_report_leaves_what_it_did_not_make(harvested: TinyProject, tmp_path: Path) -> None:
    assert harvested("train")[0] == harvested("evaluate")[0] == 0
    (tmp_path / "paper/figures").mkdir(parents=True)
    (tmp_path / "paper/figures/mine.png").write_bytes(b"mine")
    for _ in range(2):
        assert harvested("report", "--out", str(tmp_path / "paper"))[0] == 0
    assert (tmp_path / "paper/figures/mine.png").read_bytes() == b"mine"


def test_curves_of_another_training_than_the_evaluated_one_are_left_out(harvested: TinyProject) -> None:
    assert harvested("train")[0] == harvested("evaluate")[0] == harvested("report")[0] == 0
    path = harvested.root / "runs/tiny/topk/seed0/training.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "of a later one"}))
    status, _, err = harvested("report")
    assert status == 0 and "topk/seed0 was trained again since it was evaluated" in err and "baseline" not in err


def test_curves_of_a_later_training_that_has_not_ended_are_left_out(harvested: TinyProject) -> None:
    assert harvested("train")[0] == harvested("evaluate")[0] == 0
    run = harvested.root / "runs/tiny/topk/seed0"
    (run / "training.json").unlink()
    assert "trained again" not in harvested("report")[2]
    plan = json.loads((run / "plan.json").read_text())
    (run / "plan.json").write_text(json.dumps({**plan, "fingerprint": "of a later one"}))
    status, _, err = harvested("report")
    assert status == 0 and "topk/seed0 was trained again since it was evaluated" in err and "baseline" not in err


def test_a_store_that_params_yaml_does_not_describe_any_more_is_named(harvested: TinyProject) -> None:
    made = harvested.params["profiles"]["tiny"]["harvest"].get("heldout", 0.1)
    said = f"data/stores/tiny-L1 was made with heldout {made} instead of 0.25"
    assert said not in harvested("train", "--variant", "topk")[2]
    harvested.params["profiles"]["tiny"]["harvest"]["heldout"] = 0.25
    harvested.save()
    for command in (["train", "--variant", "topk"], ["evaluate", "runs/tiny/topk/seed0"]):
        status, _, err = harvested(*command)
        assert status == 0 and said in err


def test_profiles_and_variants_as_tables_and_json(project: TinyProject) -> None:
    status, out, _ = project("profiles")
    assert status == 0 and "blocks.1.hook_resid_post" in out and "deeper" in out
    listed = json.loads(project("profiles", "--json")[1])
    assert listed["current"] == "tiny" and set(listed["profiles"]) == {"tiny", "deeper"}
    assert "topk" in project("variants")[1]
    assert json.loads(project("variants", "topk", "--json")[1])["sparsifier"]["kind"] == "topk"


def test_use_says_the_way_back(project: TinyProject) -> None:
    status, out, _ = project("use", "deeper")
    assert status == 0 and "pipeline use tiny" in out
    assert read_params(project.root).profile.name == "deeper"


COMMANDS = ("harvest", "train", "evaluate", "unlearn run", "sweep", "report", "profiles", "variants")
STORE_COMMANDS = (
    "ls",
    "info d",
    "inspect d",
    "stats d",
    "verify d",
    "push d s3://b/d",
    "pull s3://b/d d",
    "subset d e",
)


@pytest.mark.parametrize("command", [*COMMANDS, *(f"store {each}" for each in STORE_COMMANDS)])
def test_every_command_refuses_an_unknown_profile(project: TinyProject, command: str) -> None:
    status, out, err = project(*command.split(), "--profile", "huge")
    assert (status, out) == (2, "")
    assert "huge" in err and "tiny, deeper" in err and "Traceback" not in err


def test_an_unknown_variant(harvested: TinyProject) -> None:
    status, _, err = harvested("train", "--variant", "warmup3000")
    assert status == 2 and "warmup3000" in err and "baseline" in err


def test_an_unknown_flag(project: TinyProject) -> None:
    assert project("harvest", "--colour", "red")[0] == 2


def test_a_layer_that_no_profile_has(project: TinyProject) -> None:
    status, _, err = project("harvest", "--layer", "7")
    assert status == 2 and "no layer 7" in err and "0 to 2" in err


def test_a_layer_of_another_profile_whose_weights_cannot_be_had(project: TinyProject) -> None:
    status, _, err = project("harvest", "--layer", "19")
    assert status == 1
    assert "deeper" in err and "--model PATH" in err and "log in to the hub" in err
    assert read_params(project.root).profile.name == "tiny"


def test_a_layer_of_another_profile_makes_it_current(project: TinyProject, tmp_path: Path) -> None:
    from tests.tiny import tiny_model_folder

    deep = tiny_model_folder(tmp_path, kind="gpt2", layers=20, d=16)
    project.params["profiles"]["deeper"]["model"]["source"] = str(deep)
    project.save()
    status, out, err = project("harvest", "--layer", "19", "--dry-run")
    assert status == 0 and "makes it the current" in err and read_params(project.root).profile.name == "tiny"
    status, out, err = project("harvest", "--layer", "19")
    assert status == 0, err
    assert "made it the current" in err and "pipeline use tiny" in err
    assert "data/stores/deeper-L19: harvested" in out
    assert read_params(project.root).profile.name == "deeper"


def test_flags_that_change_the_content_change_the_path(project: TinyProject) -> None:
    status, out, err = project("harvest", "--layer", "2", "--tokens", "320")
    assert status == 0, err
    (folder,) = (project.root / "data/stores").glob("tiny-L2-????????")
    opened = store.open(folder)
    assert folder.name in out and opened.n_sequences * opened.context >= 320
    assert opened.manifest.fingerprint.startswith(folder.name[-8:])


def test_float16_is_refused_where_values_would_overflow(project: TinyProject, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    loud = shutil.copytree(project.params["profiles"]["tiny"]["model"]["source"], tmp_path / "loud")
    weights = load_file(loud / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 1e6
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    project.params["profiles"]["tiny"]["model"]["source"] = str(loud)
    project.params["profiles"]["tiny"]["harvest"]["dtype"] = "float16"
    project.save()
    status, _, err = project("harvest")
    assert status == 1 and "at most 65504" in err and "harvest.dtype" in err and "Traceback" not in err
    assert store.verify(project.root / "data/stores/tiny-L1").root is None
    project.params["profiles"]["tiny"]["harvest"]["dtype"] = "bfloat16"
    project.save()
    status, _, err = project("harvest")
    assert status == 0, err
    assert store.open(project.root / "data/stores/tiny-L1").statistics(1).scale > 65504


def test_a_dry_run_writes_nothing(project: TinyProject) -> None:
    status, out, err = project("harvest", "--dry-run")
    assert status == 0, err
    assert "on disk" in out and "estimated time" in out and not (project.root / "data").exists()


def test_training_without_a_store_names_the_command(project: TinyProject) -> None:
    status, _, err = project("train", "--variant", "topk")
    assert status == 1 and "pipeline harvest --profile tiny" in err


def test_training_dry_run(harvested: TinyProject) -> None:
    status, out, err = harvested("train", "--variant", "topk", "--dry-run")
    assert status == 0, err
    assert "steps" in out and not (harvested.root / "runs").exists()


def test_where_memory_ends_there_is_one_message(project: TinyProject, monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: Exception) -> None:
        def run(*arguments: object) -> None:
            raise error

        monkeypatch.setattr("pipeline.report.run", run)

    refused = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 256000000000 bytes"
    for error in (RuntimeError(refused + "\nmore"), RuntimeError("CUDA out of memory. Tried"), MemoryError()):
        raising(error)
        status, _, err = project("report")
        assert status == 1 and "not enough memory" in err and "more\n" not in err
    raising(RuntimeError("a mistake of ours"))
    with pytest.raises(RuntimeError, match="mistake"):
        project("report")


def test_steps_not_above_the_warmup(harvested: TinyProject) -> None:
    status, _, err = harvested("train", "--variant", "topk", "--steps", "5")
    assert status == 2 and "warm" in err and not (harvested.root / "runs").exists()


def test_other_steps_get_their_own_folder(harvested: TinyProject) -> None:
    status, _out, err = harvested("train", "--variant", "topk", "--steps", "20")
    assert status == 0, err
    (folder,) = (harvested.root / "runs/tiny/topk").glob("seed0-????????")
    assert json.loads((folder / "training.json").read_text())["steps_done"] == 20


def test_a_damaged_store_is_refused_and_listed(harvested: TinyProject) -> None:
    shard = harvested.root / "data/stores/tiny-L1/activations.zarr/layers/1/resid_post/c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    status, _, err = harvested("train", "--variant", "topk")
    assert status == 1 and "resid_post/c/0/0/0" in err and "Traceback" not in err
    status, _, err = harvested("store", "verify")
    assert status == 1 and "resid_post/c/0/0/0" in err
    report = json.loads(harvested("store", "verify", "--json")[1])
    assert not report["ok"] and len(report["problems"]) == 1


def test_a_partial_store_is_refused(harvested: TinyProject) -> None:
    folder = harvested.root / "data/stores/tiny-L1"
    shard = folder / "activations.zarr/layers/1/resid_post/c/0/0/0"
    shard.unlink()
    status, _, err = harvested("train", "--variant", "topk")
    assert status == 1 and "resid_post/c/0/0/0" in err
    shutil.rmtree(folder)


def test_a_store_from_another_model_is_refused_by_the_evaluation(
    harvested: TinyProject, tmp_path: Path, tiny_model: Path
) -> None:
    from tests.tiny import tiny_model_folder

    assert harvested("train", "--variant", "topk")[0] == 0
    other = tiny_model_folder(tmp_path, kind="gemma3", layers=3, d=32, seed=1)
    harvested.params["profiles"]["tiny"]["model"]["source"] = str(other)
    harvested.save()
    status, _, err = harvested("evaluate", "runs/tiny/topk/seed0")
    assert status == 1 and "--model" in err and "Traceback" not in err
    status, _, err = harvested("evaluate", "runs/tiny/topk/seed0", "--model", str(tiny_model))
    assert status == 0, err


def test_store_commands(harvested: TinyProject) -> None:
    listed = json.loads(harvested("store", "ls", "--json")[1])
    assert [row["store"] for row in listed] == ["data/stores/tiny-L1"] and listed[0]["status"] == "complete"
    facts = json.loads(harvested("store", "info", "--json")[1])
    assert (
        facts["sequences"]["heldout"] > 0
        and facts["root digest"] == store.open(harvested.root / "data/stores/tiny-L1").root
    )
    assert "root digest" in harvested("store", "info")[1]
    status, out, _ = harvested("store", "verify")
    assert status == 0 and "as recorded" in out


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "empty"), (b'{"text": "caf\xe9"}\n', "UTF-8"), (b'{"body": "x"}\n', "text")]
)
def test_a_corpus_file_that_cannot_be_used(project: TinyProject, content: bytes, message: str) -> None:
    (project.root / "corpus.jsonl").write_bytes(content)
    status, _, err = project("harvest")
    assert status == 1 and message in err and "corpus.jsonl" in err and "Traceback" not in err


def test_outside_a_project(project: TinyProject, tmp_path: Path) -> None:
    project.patch.chdir(tmp_path)
    status, _, err = project("profiles")
    assert status == 2 and "params.yaml" in err


def test_parameters_that_changed_replace_the_store_and_say_so(harvested: TinyProject) -> None:
    first = store.open(harvested.root / "data/stores/tiny-L1").root
    harvested.params["profiles"]["tiny"]["harvest"]["context"] = 24
    harvested.save()
    status, _, err = harvested("harvest")
    assert status == 0 and "parameters changed" in err
    assert store.open(harvested.root / "data/stores/tiny-L1").root != first


def test_ctrl_c_says_how_to_go_on(project: TinyProject) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with project.patch.context() as patch:
        patch.setattr(store.StoreWriter, "write_shard", interrupted)
        status, _, err = project("harvest")
    assert status == 130 and "goes on from what was last saved" in err and "Traceback" not in err
    status, out, _ = project("harvest")
    assert status == 0 and "resumed and finished" in out

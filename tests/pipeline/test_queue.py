"""Many variants and seeds in one command, and every kind of row down the whole line."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.project import VARIANTS, TinyProject

COHERENCE = VARIANTS["slow"]["objective"]["temporal"]
JUMP = {"kind": "jumprelu", "threshold": {"initial": 0.5, "bandwidth": 0.5}}
ROWS: dict[str, dict[str, Any]] = {
    "attentive": {
        "sparsifier": JUMP,
        "parts": {
            "position": {"dim": 4, "std": 0.02},
            "attention": {"heads": 4, "layer_norm": True, "skip": True},
            "gate": {"dim": 4, "bias": 2.0},
        },
        "objective": {**VARIANTS["baseline"]["objective"], "temporal": {**COHERENCE, "over_lags": "sum"}},
    },
    "convolved": {
        "parts": {"convolution": {"kernel": 3, "dilations": [1, 2]}, "norm": {"kind": "layer"}},
        "batches": {"lengths": [8, 16]},
    },
    "levelled": {
        "sparsifier": {"kind": "batchtopk"},
        "objective": {
            **VARIANTS["topk"]["objective"],
            "levels": [{"share": 0.25, "weight": 0.5}, {"share": 1.0, "weight": 0.5}],
            "contrast": {"share": 0.25, "weight": 0.001, "similarity": "cosine"},
        },
    },
    "predicted": {"sparsifier": {"kind": "topk"}, "parts": {"prediction": {"heads": 2, "bottleneck": 2}}},
    "leaky": {"sparsifier": {"kind": "topk"}, "parts": {"integrator": {"largest": 0.999}}},
}


@pytest.fixture
def harvested(project: TinyProject) -> TinyProject:
    rows = {name: {**VARIANTS["baseline"], **row} for name, row in ROWS.items()}
    (project.root / "variants.yaml").write_text(yaml.safe_dump({**VARIANTS, **rows}))
    assert project("harvest")[0] == 0
    return project


@pytest.mark.slow
def test_every_kind_of_row_goes_down_the_whole_line(harvested: TinyProject) -> None:
    harvested.params["run"]["variants"] = list(ROWS)
    harvested.save()
    for command in ("train", "evaluate", "report"):
        status, _, err = harvested(command)
        assert status == 0, err
    found = {
        name: json.loads((harvested.root / f"results/tiny/{name}/seed0/summary.json").read_text()) for name in ROWS
    }
    assert all(summary["steps_done"] == 40 and summary["l0"] > 0 for summary in found.values())
    assert found["leaky"]["l0"] <= 4 < found["leaky"]["l0_codes"]
    assert found["predicted"]["l0"] <= 4 < found["predicted"]["l0_codes"]
    assert found["convolved"]["l0"] == found["convolved"]["l0_codes"]
    assert 0 <= found["levelled"]["level0_alive"] <= 1
    assert found["levelled"]["level0_l0"] + found["levelled"]["level1_l0"] == pytest.approx(found["levelled"]["l0"])
    page = (harvested.root / "report/tiny/index.html").read_text()
    assert all(name in page for name in ROWS)
    status, _, err = harvested("evaluate", "runs/tiny/levelled/seed0", "--text", "corpus.jsonl")
    assert status == 0, err
    (path,) = (harvested.root / "results/tiny/levelled/seed0").glob("summary-????????.json")
    on_text = json.loads(path.read_text())
    assert on_text["level0_l0"] + on_text["level1_l0"] == pytest.approx(on_text["l0"])


def test_a_queue_of_variants_and_seeds_ends_in_a_table(harvested: TinyProject) -> None:
    arguments = ("train", "--variant", "topk", "--variant", "leaky", "--seed", "0", "--seed", "1")
    status, out, err = harvested(*arguments)
    assert status == 0, err
    for run in ("topk/seed0", "topk/seed1", "leaky/seed0", "leaky/seed1"):
        assert f"runs/tiny/{run}: trained" in out and (harvested.root / f"runs/tiny/{run}/training.json").exists()
    assert out.count("40 of 40") == 4
    assert harvested(*arguments)[1].count("finished before") == 4


def test_a_run_that_fails_ends_last_and_the_others_are_there(harvested: TinyProject) -> None:
    table = yaml.safe_load((harvested.root / "variants.yaml").read_text())
    table["wild"] = {**VARIANTS["topk"], "optimizer": {**VARIANTS["topk"]["optimizer"], "lr": 1e30}}
    (harvested.root / "variants.yaml").write_text(yaml.safe_dump(table))
    status, out, err = harvested("train", "--variant", "wild", "--variant", "topk")
    assert status == 1 and "collapsed" in err and "Traceback" not in err
    assert "runs/tiny/topk/seed0: trained" in out and "wild/seed0" in out
    assert (harvested.root / "runs/tiny/topk/seed0/training.json").exists()
    assert not (harvested.root / "runs/tiny/wild/seed0/training.json").exists()


def test_a_curriculum_needs_a_store_with_its_layers(harvested: TinyProject) -> None:
    table = yaml.safe_load((harvested.root / "variants.yaml").read_text())
    table["climbing"] = {**VARIANTS["topk"], "layers": "curriculum"}
    (harvested.root / "variants.yaml").write_text(yaml.safe_dump(table))
    status, _, err = harvested("train", "--variant", "climbing")
    assert status == 2 and "train.curriculum" in err
    harvested.params["profiles"]["tiny"]["train"]["curriculum"] = [0, 1]
    harvested.save()
    status, _, err = harvested("train", "--variant", "climbing")
    command = "pipeline harvest --profile tiny --layer 0 --layer 1 --store data/stores/tiny-L0-1"
    assert status == 2 and command in err
    assert harvested(*command.split()[1:])[0] == 0
    status, out, err = harvested("train", "--variant", "climbing", "--store", "data/stores/tiny-L0-1")
    assert status == 0, err
    assert out.count(": trained") == 2 and "layer 0" in out and "layer 1" in out


def test_what_cannot_be_trained_is_refused_before_any_work(harvested: TinyProject) -> None:
    table = yaml.safe_load((harvested.root / "variants.yaml").read_text())
    table["odd"] = {**VARIANTS["baseline"], "parts": {"attention": {"heads": 5, "layer_norm": False, "skip": False}}}
    (harvested.root / "variants.yaml").write_text(yaml.safe_dump(table))
    status, _, err = harvested("train", "--variant", "topk", "--variant", "odd")
    assert status == 2 and "heads that do not divide" in err
    assert not (harvested.root / "runs").exists()

"""Evaluations from files to files: a store, trained runs, a model; and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
import yaml

import store as stores
from stages.evaluate import run as run_module
from stages.evaluate.bootstrap import REPLICATES
from stages.evaluate.comparison import compare
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.replicates import replicates_of
from stages.evaluate.results import read_results
from stages.evaluate.run import evaluate
from stages.evaluate.standard_error import standard_error
from stages.evaluate.temporal import consistency, signals
from stages.evaluate.temporal.lifetimes import GROUPS
from stages.evaluate.versions import CORE, PROBING, SUMMARY, TEMPORAL, VERSIONS, fingerprint
from stages.language_model.config import ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.language_model.splice import Splice
from stages.sae.table import load_variants
from stages.train.config import TrainConfig
from stages.train.loop import train
from store import ActivationStore, StoreSpec, StoreWriter
from store.problem import Problem
from tests.evaluate.stand_ins import random_rows
from tests.project import VARIANTS
from tests.schemas import legacy_core_schema, saebench_schema
from tests.tiny import tiny_model_folder

D, LAYER, CONTEXT, ROWS = 32, 1, 16, 60
CONFIG = EvaluateConfig(batch_rows=4, reconstruction_share=0.3)


def write_store(folder: Path, lm: LanguageModel, seed: int, heldout: bool = True) -> ActivationStore:
    """A store of random packed rows, a document each; every third is heldout."""
    tokens, _ = random_rows(ROWS, CONTEXT, 300, seed)
    document = np.where(np.isin(tokens, [0, 1, 2]), -1, np.arange(ROWS)[:, None]).astype(np.int32)
    x = Splice(lm, LAYER).resid(torch.as_tensor(tokens).long()).numpy()
    request = {
        "seed": seed,
        "hooks": [f"blocks.{LAYER}.hook_resid_post"],
        "model": {"name": lm.name, **lm.identity},
        "corpus": {"source": "a test"},
    }
    spec = StoreSpec(request, CONTEXT, "float32", {LAYER: D})
    with StoreWriter.open(folder, spec, {"device": "cpu"}) as writer:
        with writer.sequences() as out:
            for row in range(ROWS):
                split = "heldout" if heldout and row % 3 == 0 else "train"
                out.add_document(f"doc{row}", "test", "", split, CONTEXT - 1)
            out.add_rows(tokens, document)
        for shard in writer.missing_shards():
            writer.write_shard(shard, {LAYER: x[list(writer.shard_rows(shard))]})
        writer.finish({})
    return stores.open(folder)


class Scene:
    """A model, a store and two trained runs, made once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lm_config = ModelConfig("tiny", str(tiny_model_folder(root, "gemma2", d=D)), dtype="float32")
        self.lm = load(self.lm_config)
        self.store = write_store(root / "store", self.lm, 0)
        table = root / "variants.yaml"
        table.write_text(yaml.safe_dump({name: VARIANTS[name] for name in ("baseline", "topk")}))
        self.runs = {}
        for name, variant in load_variants(table).items():
            config = TrainConfig(variant, seed=0, steps=40, batch_rows=4, d_sae=48, k=4)
            self.runs[name] = root / "runs" / name / "seed0"
            train(config, self.store, LAYER, self.runs[name])


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts of these tests are short."""
    monkeypatch.setattr(consistency, "MIN_PAIRS", 5)
    monkeypatch.setattr(signals, "MIN_FIRINGS", 1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    torch.set_num_threads(1)
    return Scene(tmp_path_factory.mktemp("scene"))


def evaluate_all(scene: Scene, out: Path) -> dict[str, dict]:
    pairs = [(folder, out / name) for name, folder in scene.runs.items()]
    evaluate(pairs, scene.store.path, scene.lm_config, CONFIG)
    return {name: json.loads((out / name / "core.json").read_text()) for name in scene.runs}


def test_the_output_is_saebench_core_json(scene: Scene, tmp_path: Path) -> None:
    for name, core in evaluate_all(scene, tmp_path).items():
        jsonschema.validate(core, saebench_schema("core"))
        jsonschema.validate(core, legacy_core_schema())
        assert len(core["eval_result_details"]) == 48
        assert core["sae_lens_release_id"] == name
        del core["eval_result_metrics"]["misc_metrics"]
        with pytest.raises(jsonschema.ValidationError):  # the schema can fail
            jsonschema.validate(core, saebench_schema("core"))


def test_batches_follow_from_the_heldout_rows_and_tokens_are_reported(scene: Scene, tmp_path: Path) -> None:
    core = evaluate_all(scene, tmp_path)["topk"]
    assert len(scene.store.rows("heldout")) == 20  # 5 batches of 4 rows
    assert core["eval_config"]["n_eval_reconstruction_batches"] == 2
    assert core["eval_config"]["n_eval_sparsity_variance_batches"] == 3
    stats = core["eval_result_metrics"]["token_stats"]
    assert stats["total_tokens_eval_reconstruction"] == 2 * 4 * CONTEXT
    assert stats["total_tokens_eval_sparsity_variance"] == 3 * 4 * CONTEXT
    kept = core["eval_result_unstructured"]["tokens"]
    heldout = scene.store.document(scene.store.rows("heldout"))
    assert kept["reconstruction"] + kept["sparsity_variance"] == (heldout >= 0).sum()
    summary = json.loads((tmp_path / "topk" / "summary.json").read_text())
    assert summary["steps_planned"] == summary["steps_done"] == 40
    assert 0 < summary["l0"] <= 4
    assert summary["ce_loss_score_se"] > 0


@pytest.mark.usefixtures("few_are_enough")
def test_together_or_alone_and_again_give_the_same_bytes(scene: Scene, tmp_path: Path) -> None:
    evaluate_all(scene, tmp_path / "together")
    [alone] = evaluate([(scene.runs["topk"], tmp_path / "alone")], scene.store.path, scene.lm_config, CONFIG)
    assert alone.did == "evaluated"
    for file in ("core.json", "summary.json", "temporal.json", "probing.json"):
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "together/topk" / file).read_bytes()
    assert set(alone.facts()) >= {"explained variance", "L0", "dead latents", "tokens", "TCS short", "TCS long"}
    assert "inputs permuted" in alone.facts()["TCS short"]
    temporal = json.loads((tmp_path / "alone" / "temporal.json").read_text())
    assert temporal["measures"]["codes"]["tcs"]["short"] == alone.summary["tcs_short"] is not None
    other = json.loads((tmp_path / "together/baseline/temporal.json").read_text())
    assert other["measures"]["codes"] != temporal["measures"]["codes"]
    assert other["measures"]["activations"] == temporal["measures"]["activations"]


def test_temporal_json_and_its_numbers_in_the_summary(scene: Scene, tmp_path: Path) -> None:
    evaluate_all(scene, tmp_path)
    core, summary, temporal = (
        json.loads((tmp_path / "topk" / f"{name}.json").read_text()) for name in ("core", "summary", "temporal")
    )
    assert temporal["format"] == "tsae-temporal"
    assert temporal["fingerprint"] == fingerprint(TEMPORAL, core["eval_result_unstructured"]["decided"])
    assert temporal["tokens"] == summary["variance_tokens"]
    assert temporal["rows"] == 12
    assert len(temporal["pairs"]) == CONTEXT - 1
    assert temporal["scales"]["medium"] == {"lags": [5, 16], "used": []}  # 12 rows have fewer than 1,000 pairs
    assert set(temporal["measures"]) == {
        *("codes", "codes_inputs_permuted", "codes_permuted"),
        *("untrained", "untrained_inputs_permuted", "activations", "activations_permuted"),
    }
    for measure in temporal["measures"].values():
        assert set(measure) == {
            *("latents", "tokens", "tcs", "tcs_binary", "autocorrelation", "autocorrelation_firing_weighted"),
            *("slowness", "fsm_support", "fsm_magnitude", "persistence", "smoothness", "level_smoothness"),
            *("standard_errors", "patterns"),
        }
        assert set(measure["patterns"]) == {
            *("integrated_time", "position", "redundancy", "lifetime", "transitions", "lift", "clusters"),
        }
        assert set(measure["tcs"]) == {"short", "medium", "long"}
        assert len(measure["autocorrelation"]) == CONTEXT - 1
        assert set(measure["persistence"]) == {"1", "4", "16", "64"}
    suffixes = ["", "_inputs_permuted", "_codes_permuted", "_untrained", "_activations"]
    everywhere = ("tcs_short", "tcs_medium", "tcs_long", "slowness", "smoothness")
    everywhere += ("integrated_time", "position_correlation", "position_slope")
    of_firings = ("fsm_support", "fsm_magnitude", "lifetime_ratio")
    of_firings += ("turnover", "turnover_sentence_boundary", "turnover_document_boundary")
    uncertain = ("tcs_short", "tcs_medium", "tcs_long", "slowness", "smoothness", *of_firings)
    expected = {f"{name}{s}" for name in everywhere for s in [*suffixes, "_gain"]}
    expected |= {f"{name}{s}" for name in of_firings for s in [*suffixes[:-1], "_gain"]}
    expected |= {f"{name}{s}_se" for name in uncertain for s in ("", "_gain")}
    in_order = ("effective_rank", "high_correlation_share")
    expected |= {f"{name}{s}" for name in in_order for s in ("", "_untrained", "_activations")}
    found = {n for n in summary if n.startswith((*everywhere, *of_firings, *in_order, "lift"))}
    assert found == expected  # no `lift_edges`: too few pairs
    assert summary["tcs_short"] is summary["tcs_short_se"] is None
    assert summary["smoothness"] > 0


@pytest.mark.usefixtures("few_are_enough")
def test_files_keep_the_replicates_of_which_summaries_have_the_standard_deviation(scene: Scene, tmp_path: Path) -> None:
    evaluate_all(scene, tmp_path)
    core, summary, temporal = (
        json.loads((tmp_path / "topk" / f"{name}.json").read_text()) for name in ("core", "summary", "temporal")
    )
    facts = core["eval_result_unstructured"]
    assert set(facts["replicates"]) == set(facts["standard_errors"])
    assert {"explained_variance_centred", "l0", "ce_loss_score", "kl_div_with_sae"} < set(facts["replicates"])
    assert {"tcs_short", "smoothness", "lifetime_ratio", "tcs_short_gain", "slowness_gain"} < set(
        temporal["replicates"]
    )
    for name, values in (facts["replicates"] | temporal["replicates"]).items():
        assert len(values) == REPLICATES or (name.startswith("lifetime_ratio") and 1 < len(values) <= GROUPS), name
        assert np.std(values, ddof=1) == pytest.approx(summary[f"{name}_se"], rel=1e-3, abs=1e-6), name
        assert all(value == float(f"{value:.7g}") for value in values)
    gain = np.array(temporal["replicates"]["tcs_short_gain"])
    assert abs(gain.mean() - summary["tcs_short_gain"]) < 3 * summary["tcs_short_gain_se"]


@pytest.mark.usefixtures("few_are_enough")
def test_two_evaluations_of_one_sae_differ_by_nothing_in_every_replicate(scene: Scene, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(scene.runs["topk"], copy)
    facts = json.loads((copy / "training.json").read_text())
    (copy / "training.json").write_text(json.dumps(facts | {"variant": "another"}))
    for name, folder in {"one": scene.runs["topk"], "two": copy}.items():
        evaluate([(folder, tmp_path / "results" / name)], scene.store.path, scene.lm_config, CONFIG)
    one, two = map(replicates_of, read_results(tmp_path / "results"))
    assert one.keys() == two.keys() > {"tcs_short", "l0", "ce_loss_score", "lifetime_ratio"}
    for name, replicates in one.items():
        assert replicates.pairs_with(two[name])
        assert standard_error(replicates.values - two[name].values) == 0


@pytest.mark.usefixtures("few_are_enough")
def test_the_comparison_has_every_number_of_the_summaries(scene: Scene, tmp_path: Path) -> None:
    evaluate_all(scene, tmp_path)
    table = compare(tmp_path)
    columns = {"": "value", "_se": "standard_error", "_inputs_permuted": "null_inputs_permuted", "_gain": "gain"}
    columns |= {"_gain_se": "gain_standard_error"}
    columns |= {"_codes_permuted": "null_codes_permuted", "_untrained": "untrained", "_activations": "activations"}
    for name in scene.runs:
        rows = table[table.run == name].set_index("metric")
        found = {
            f"{metric}{suffix}": rows[column][metric] for metric in rows.index for suffix, column in columns.items()
        }
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        known = {number: value for number, value in summary.items() if value is not None}
        assert {number: found.get(number) for number in known.keys() & found.keys()} == {
            number: value for number, value in known.items() if number in found
        }
        counts = {"steps_planned", "latents", "variance_tokens", "reconstruction_tokens"}
        assert known.keys() - found.keys() == counts
        assert {"tcs_short_gain", "lifetime_ratio_se", "turnover_untrained"} < known.keys()


def test_a_second_call_does_nothing_until_something_changes(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_all(scene, tmp_path)
    pairs = [(folder, tmp_path / name) for name, folder in scene.runs.items()]
    for file in ("core.json", "temporal.json", "probing.json"):
        (tmp_path / "topk" / file).write_text("torn")
        again = evaluate(pairs, scene.store.path, scene.lm_config, CONFIG)
        assert {r.name: r.did for r in again} == {"baseline/seed0": "finished before", "topk/seed0": "evaluated"}

    def never(*_: object) -> None:
        raise AssertionError("the model was loaded for nothing")

    monkeypatch.setattr(run_module, "load_language_model", never)
    assert {r.did for r in evaluate(pairs, scene.store.path, scene.lm_config, CONFIG)} == {"finished before"}
    with pytest.raises(AssertionError):
        evaluate(pairs, scene.store.path, scene.lm_config, replace(CONFIG, batch_rows=5))


@pytest.mark.parametrize("raised", list(VERSIONS))
def test_a_file_of_an_older_version_alone_is_measured_again(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: str
) -> None:
    evaluate_all(scene, tmp_path)
    names = [*VERSIONS, SUMMARY]
    before = {name: (tmp_path / "topk" / name).read_bytes() for name in names}
    measured = {CORE: "reconstruction", TEMPORAL: "temporal", PROBING: "probe"}
    for name in VERSIONS:
        if name != raised:
            monkeypatch.setattr(run_module, measured[name], lambda *_: pytest.fail("measured for nothing"))
    monkeypatch.setitem(VERSIONS, raised, VERSIONS[raised] + 1)
    evaluate_all(scene, tmp_path)
    after = {name: (tmp_path / "topk" / name).read_bytes() for name in names}
    assert {name for name in names if after[name] != before[name]} == {raised}
    evaluate_all(scene, tmp_path)
    assert after == {name: (tmp_path / "topk" / name).read_bytes() for name in names}


def refused(scene: Scene, run: Path, store: Path, lm_config: ModelConfig | None = None) -> str:
    out = scene.root / "refused"
    with pytest.raises(Problem) as caught:
        evaluate([(run, out)], store, lm_config or scene.lm_config, CONFIG)
    assert not out.exists()
    return str(caught.value)


def test_a_run_of_another_store_is_refused(scene: Scene, tmp_path: Path) -> None:
    other = write_store(tmp_path / "other", scene.lm, seed=1)
    message = refused(scene, scene.runs["topk"], other.path)
    assert "trained on another activation store" in message
    assert scene.store.root in message
    assert other.root in message


def test_a_missing_or_unfinished_run_is_refused(scene: Scene, tmp_path: Path) -> None:
    assert "no such folder" in refused(scene, tmp_path / "nowhere", scene.store.path)
    (tmp_path / "photos").mkdir()
    message = refused(scene, tmp_path / "photos", scene.store.path)
    assert "This is no run" in message and "not finished" not in message
    unfinished = tmp_path / "unfinished"
    shutil.copytree(scene.runs["topk"], unfinished)
    (unfinished / "training.json").unlink()
    assert "has not finished training" in refused(scene, unfinished, scene.store.path)


def test_a_store_without_heldout_documents_is_refused(scene: Scene, tmp_path: Path) -> None:
    store = write_store(tmp_path / "store", scene.lm, seed=0, heldout=False)
    run = tmp_path / "run"
    shutil.copytree(scene.runs["topk"], run)
    facts = json.loads((run / "training.json").read_text())
    (run / "training.json").write_text(json.dumps(facts | {"store_root": store.root}))
    assert "too few heldout rows" in refused(scene, run, store.path)


def test_another_language_model_is_refused(scene: Scene, tmp_path: Path) -> None:
    folder = tiny_model_folder(tmp_path, "gemma2", d=D, seed=1)
    message = refused(scene, scene.runs["topk"], scene.store.path, ModelConfig("other", str(folder)))
    assert "not the one that made the activation store" in message
    assert "model.safetensors" in message

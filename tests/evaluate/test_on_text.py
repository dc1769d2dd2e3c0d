"""Evaluation on a text as SAEBench packs it: rows, files, both readings of temporal SAEs, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens.tokenization_and_batching import concat_and_batch_sequences
from sae_lens.training.activations_store import ActivationsStore

from stages.evaluate import on_text
from stages.evaluate.batches import Batches
from stages.evaluate.config import EvaluateConfig
from stages.evaluate.core.document import CATEGORIES
from stages.evaluate.core.splicing import reconstruction
from stages.evaluate.core.variance import sparsity_variance
from stages.evaluate.on_text import evaluate_on_text
from stages.evaluate.text import PackedText
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import load
from stages.language_model.tokens import Packer
from stages.sae.architecture import NO_PARTS
from stages.sae.files import save
from store.problem import Problem
from tests.evaluate.core import judges
from tests.evaluate.stand_ins import EVERYTHING, sae_with, units_of
from tests.project import TinyProject, write_corpus
from tests.schemas import legacy_core_schema, saebench_schema
from tests.tiny import tiny_model_folder

D, LAYER, CONTEXT, BOS = 32, 1, 16, 2
CONFIG = EvaluateConfig(batch_rows=4, reconstruction_share=0.3)


class Scene:
    """A model, a text and SAEs of it, two that read token by token and one that does not."""

    def __init__(self, root: Path) -> None:
        self.folder = tiny_model_folder(root, "gemma3", d=D)
        self.lm_config = ModelConfig("tiny", str(self.folder), dtype="float32")
        self.lm = load(self.lm_config)
        self.text = CorpusConfig(str(write_corpus(root / "text.jsonl", documents=12)))
        self.packed = PackedText.pack(self.lm, [LAYER], self.text, CONTEXT)
        self.batches = Batches.in_order(np.arange(len(self.packed)), CONFIG)
        x = self.packed.read(LAYER, np.arange(len(self.packed)))
        units = units_of(x[torch.as_tensor(self.packed.all_documents >= 0)])
        metadata = {"model_name": "tiny", "hook_name": f"blocks.{LAYER}.hook_resid_post"}
        self.saes = {}
        for name, parts in {"topk": NO_PARTS, "temporal": EVERYTHING}.items():
            self.saes[name] = root / "saes" / name
            save(self.saes[name], sae_with(parts, D, CONTEXT), units, metadata)

    def evaluate(self, out: Path, **options: object) -> dict[str, dict]:
        """Both SAEs; by name, the content of the one `core-*.json` of each."""
        pairs = [(folder, out / name) for name, folder in self.saes.items()]
        arguments = {"text": self.text, "context": CONTEXT, "lm_config": self.lm_config, "config": CONFIG, **options}
        self.results = evaluate_on_text(pairs, **arguments)
        return {name: json.loads(next((out / name).glob("core-*.json")).read_text()) for name in self.saes}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    torch.set_num_threads(1)
    return Scene(tmp_path_factory.mktemp("scene"))


@given(lengths=st.lists(st.integers(1, 40), max_size=12), context=st.integers(2, 12))
def test_rows_are_those_of_saelens(lengths: list[int], context: int) -> None:
    stream = iter(range(BOS + 1, 10_000))
    texts = [np.array([next(stream) for _ in range(length)], np.int32) for length in lengths]
    expected = concat_and_batch_sequences(iter(map(torch.from_numpy, texts)), context, BOS, None, BOS)
    packer = Packer(context, "concat", BOS, 0)
    found = [row for text in texts for row in packer.add(text, "train")[1][0].tolist()]
    assert found == [row.tolist() for row in expected]


def test_a_text_becomes_the_batches_of_saebench_and_gives_its_numbers(scene: Scene, tmp_path: Path) -> None:
    """SAELens's store reads the file itself, as in SAEBench's own evaluation."""
    bridge = judges.bridge_to(scene.folder)
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(scene.text.source, data / "train.jsonl")
    theirs = ActivationsStore(
        bridge, str(data), True, "", None, CONTEXT, D, 8, 10**9, 8, 4096, True, "none", torch.device("cpu"), "float32"
    )
    theirs.shuffle_input_dataset(seed=42)
    tokens = torch.stack([theirs.get_batch_tokens(1)[0] for _ in range(len(scene.packed))])
    assert torch.equal(tokens, torch.from_numpy(scene.packed.all_tokens).long())

    cores = scene.evaluate(tmp_path / "out")
    phases = [[tokens[rows] for rows in batches] for batches in (scene.batches.reconstruction, scene.batches.variance)]
    for name, core in cores.items():
        sae = on_text.read_without_store(scene.saes[name]).load()
        expected, latents = judges.saebench(sae, bridge, LAYER, *phases)
        metrics = core["eval_result_metrics"]
        ours = {key: value for category in metrics.values() for key, value in category.items()}
        columns = {key: torch.tensor([row[key] for row in core["eval_result_details"]]) for key in latents}
        cleaned = {key: [-1.0 if value != value else value for value in values] for key, values in latents.items()}
        judges.assert_equal(ours, expected, columns, cleaned)
        assert core["eval_config"]["n_eval_reconstruction_batches"] == len(phases[0])
        assert metrics["token_stats"]["total_tokens_eval_sparsity_variance"] == len(phases[1]) * 4 * CONTEXT


def test_a_temporal_sae_is_read_with_documents_too(scene: Scene, tmp_path: Path) -> None:
    cores = scene.evaluate(tmp_path)
    assert "with_documents" not in cores["topk"]["eval_result_unstructured"]
    other = cores["temporal"]["eval_result_unstructured"]["with_documents"]
    sae = {"sae": on_text.read_without_store(scene.saes["temporal"]).load()}
    variance = sparsity_variance(sae, scene.packed, LAYER, scene.batches.variance)["sae"].scalars
    spliced = reconstruction(sae, scene.packed.splices[LAYER], scene.packed, scene.batches.reconstruction)["sae"]
    rows = cores["temporal"]["eval_result_metrics"]
    for category, names in CATEGORIES.items():
        for name in names:
            assert other["eval_result_metrics"][category][name] == (variance | spliced.scalars)[name]
    for category, name in [("reconstruction_quality", "mse"), ("model_behavior_preservation", "kl_div_with_sae")]:
        assert rows[category][name] != other["eval_result_metrics"][category][name]
    summary = scene.results[1].summary
    assert summary["ce_loss_score_with_documents"] == spliced.scalars["ce_loss_score"] != summary["ce_loss_score"]
    assert not [name for name in scene.results[0].summary if name.endswith("_with_documents")]


def test_the_output_is_saebench_core_json_of_then_and_now(scene: Scene, tmp_path: Path) -> None:
    for core in scene.evaluate(tmp_path).values():
        jsonschema.validate(core, saebench_schema("core"))
        jsonschema.validate(core, legacy_core_schema())
        assert core["eval_config"]["dataset"] == "text.jsonl"
        assert scene.text.source not in json.dumps(core)
        others = core["eval_result_unstructured"]["other_definitions"]
        assert others["mse_saelens"]["value"] > 0 and "SAELens" in others["mse_saelens"]["definition"]


def test_a_second_call_does_nothing_until_the_text_changes(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.evaluate(tmp_path / "out")
    assert {result.did for result in scene.results} == {"evaluated"}
    other = CorpusConfig(str(write_corpus(tmp_path / "text.jsonl", documents=12, seed=1)))
    with monkeypatch.context() as patch:
        patch.setattr(on_text, "load", lambda *_: pytest.fail("the model was loaded for nothing"))
        scene.evaluate(tmp_path / "out")
    assert {result.did for result in scene.results} == {"finished before"}
    scene.evaluate(tmp_path / "out", text=other)
    assert {result.did for result in scene.results} == {"evaluated"}
    assert len(list((tmp_path / "out" / "topk").glob("core-*.json"))) == 2


@pytest.mark.parametrize("documents", [1, 2])
def test_a_text_without_enough_full_rows_is_refused(scene: Scene, tmp_path: Path, documents: int) -> None:
    path = tmp_path / "short.txt"
    path.write_text("a " * (CONTEXT // 2) * documents)
    with pytest.raises(Problem, match="too few full sequences") as caught:
        scene.evaluate(tmp_path / "out", text=CorpusConfig(str(path)))
    assert ("no full sequence" if documents == 1 else "1") in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lm_config": "other"}, "of another language model"),
        ({"lm_config": "narrow"}, "activations that this language model does not have"),
        ({"context": 2 * CONTEXT}, "fewer positions"),
    ],
)
def test_an_sae_of_something_else_is_refused(scene: Scene, tmp_path: Path, options: dict, message: str) -> None:
    if options.get("lm_config") == "other":
        options = {"lm_config": ModelConfig("another", str(scene.folder), dtype="float32")}
    elif options.get("lm_config") == "narrow":
        options = {"lm_config": ModelConfig("tiny", str(tiny_model_folder(tmp_path, "gpt2", d=16)), dtype="float32")}
    with pytest.raises(Problem, match=message):
        scene.evaluate(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_command(project: TinyProject) -> None:
    assert project("harvest")[0] == 0 and project("train", "--variant", "topk")[0] == 0
    shutil.rmtree(project.root / "data")
    run = "runs/tiny/topk/seed0"
    status, out, err = project("evaluate", run, "--text", "corpus.jsonl")
    assert status == 0, err
    assert "results/tiny/topk/seed0: evaluated" in out and "TCS" not in out
    (core,) = (project.root / "results/tiny/topk/seed0").glob("core-????????.json")
    assert json.loads(core.read_text())["eval_result_metrics"]["sparsity"]["l0"] > 0
    assert "finished before" in project("evaluate", run, "--text", "corpus.jsonl")[1]
    status, _, err = project("evaluate", run, "--text", "corpus.jsonl", "--store", "data/stores/tiny-L1")
    assert status == 2 and "--text or --store" in err

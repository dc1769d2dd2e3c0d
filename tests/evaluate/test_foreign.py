"""SAEs that others saved go through the evaluation of our own, and belong to the store or are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import sae_lens
import torch
from sae_lens.saes.sae import SAEMetadata

from stages.evaluate.foreign import ForeignSAE, foreign_name
from stages.evaluate.run import evaluate
from stages.evaluate.task import Task, together
from stages.sae.loading import load
from store.problem import Problem
from tests.evaluate.test_run import CONFIG, LAYER, D, Scene

D_SAE = 48
HOOK = f"blocks.{LAYER}.hook_resid_post"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    torch.set_num_threads(1)
    return Scene(tmp_path_factory.mktemp("scene"))


def results(scene: Scene, path: Path, out: Path) -> dict[str, float]:
    evaluate([(path, out)], scene.store.path, scene.lm_config, CONFIG)
    return json.loads((out / "summary.json").read_text())


def saved_by_saelens(folder: Path, scene: Scene, hook: str = HOOK, model: str = "tiny", d_in: int = D) -> Path:
    """An SAE as SAELens writes it, with the weights of our TopK run where they fit."""
    config = sae_lens.TopKSAEConfig(d_in=d_in, d_sae=D_SAE, k=4, rescale_acts_by_decoder_norm=False)
    config.metadata = SAEMetadata(model_name=model, hook_name=hook)
    sae = sae_lens.TopKSAE(config)
    ours = load(scene.runs["topk"] / "sae").state_dict()
    if d_in == D:
        sae.load_state_dict(ours)
    sae.save_model(folder)
    return folder


def saved_by_gemma_scope(folder: Path, scene: Scene) -> Path:
    """A file of Gemma Scope with the weights of our TopK run."""
    ours = load(scene.runs["topk"] / "sae")
    folder.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in ours.state_dict().items()}
    arrays["b_enc"] = arrays["b_enc"] - arrays["b_dec"] @ arrays["W_enc"]
    scale = scene.store.statistics(LAYER).scale
    np.savez(folder / "params.npz", threshold=np.full(D_SAE, 2.0 * scale / 10), **arrays)
    return folder / "params.npz"


def test_the_numbers_are_those_of_the_run_that_was_saved(scene: Scene, tmp_path: Path) -> None:
    theirs = results(scene, saved_by_saelens(tmp_path / "sae", scene), tmp_path / "theirs")
    ours = results(scene, scene.runs["topk"], tmp_path / "ours")
    without = {name for name, value in ours.items() if value is None}
    unknown = {"steps_planned", "steps_done", "training_tokens"}
    assert {name for name, value in theirs.items() if value is None} == without | unknown
    known = [name for name in ours if name not in without | unknown]
    assert [theirs[name] for name in known] == pytest.approx([ours[name] for name in known], rel=1e-5)
    core = json.loads((tmp_path / "theirs" / "core.json").read_text())
    assert core["sae_lens_id"] == "foreign" and core["sae_cfg_dict"]["metadata"]["hook_name"] == HOOK


def test_a_file_of_gemma_scope(scene: Scene, tmp_path: Path) -> None:
    """Its encoder reads activations as they are, so the bias takes in what ours subtracts first."""
    path = saved_by_gemma_scope(tmp_path / "layer_99" / f"layer_{LAYER}" / "width_48" / "average_l0_4", scene)
    found = results(scene, path, tmp_path / "out")
    assert foreign_name(path) == f"{path.parents[2].name}-width_48-average_l0_4"
    assert 0 < found["l0"] < D_SAE and found["smoothness_untrained"] > 0
    core = json.loads((tmp_path / "out" / "core.json").read_text())
    facts = core["eval_result_unstructured"]["training"]
    assert f"blocks.{LAYER}.hook_resid_post" in facts["assumed"] and facts["hook_name"] is None


def test_in_the_hub_s_cache_a_file_has_the_name_of_its_folders(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("a" * 64)
    link = tmp_path / "snapshots" / "0" / "layer_20" / "width_16k" / "average_l0_71" / "params.npz"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.touch()
    link.symlink_to(blob)
    assert foreign_name(link) == "layer_20-width_16k-average_l0_71"


@pytest.mark.parametrize(
    ("folder", "word"),
    [
        (f"google/gemma-scope-2b-pt-mlp/layer_{LAYER}/width_48/average_l0_4", "mlp"),
        (f"models--google--gemma-scope-2b-pt-att/snapshots/0/layer_{LAYER}/width_48/average_l0_4", "att"),
        (f"res/gemma-scope-2b-pt-transcoders/layer_{LAYER}/width_48/average_l0_4", "transcoders"),
        ("google/gemma-scope-2b-pt-res/embedding/width_48/average_l0_4", "embedding"),
    ],
)
def test_a_file_of_gemma_scope_from_another_place_is_refused(
    scene: Scene, tmp_path: Path, folder: str, word: str
) -> None:
    path = saved_by_gemma_scope(tmp_path / folder, scene)
    with pytest.raises(Problem, match="does not read the residual stream") as problem:
        results(scene, path, tmp_path / "out")
    assert f"found: {word}" in str(problem.value)
    (tmp_path / "linked.npz").symlink_to(path)
    with pytest.raises(Problem, match="does not read the residual stream"):
        ForeignSAE.read(tmp_path / "linked.npz", scene.store)


def test_the_nearest_folder_says_what_a_file_of_gemma_scope_reads(scene: Scene, tmp_path: Path) -> None:
    """In the hub's cache the path of a snapshot says it, and the file that it links to does not."""
    blob = saved_by_gemma_scope(tmp_path / "mlp" / "models--google--gemma-scope-2b-pt-res" / "blobs", scene)
    path = blob.parents[1] / "snapshots" / f"layer_{LAYER + 6}" / "params.npz"
    path.parent.mkdir(parents=True)
    path.symlink_to(blob)
    assert ForeignSAE.read(path, scene.store).layer == LAYER + 6


@pytest.mark.parametrize("hook", ["blocks.1.hook_mlp_out", HOOK])
def test_an_old_name_of_the_hook_point_counts(scene: Scene, tmp_path: Path, hook: str) -> None:
    path = saved_by_saelens(tmp_path / "sae", scene)
    config = json.loads((path / "cfg.json").read_text())
    del config["metadata"]
    (path / "cfg.json").write_text(json.dumps({**config, "hook_point": hook, "model_name": "tiny"}))
    if hook == HOOK:
        assert ForeignSAE.read(path, ()).layer == LAYER
    else:
        with pytest.raises(Problem, match="a hook point that no store has"):
            ForeignSAE.read(path, (LAYER,))


def test_what_leaves_a_block_is_what_the_next_one_reads(scene: Scene, tmp_path: Path) -> None:
    path = saved_by_saelens(tmp_path / "sae", scene, hook=f"blocks.{LAYER + 1}.hook_resid_pre")
    assert ForeignSAE.read(path, scene.store).layer == LAYER


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"model": "other/model"}, "another language model"),
        ({"hook": "blocks.2.hook_resid_post"}, "after block 2, which the store does not have"),
        ({"hook": "blocks.1.hook_mlp_out"}, "a hook point that no store has"),
        ({"hook": "blocks.0.hook_resid_pre"}, "a hook point that no store has"),
        ({"d_in": 16}, "another width"),
    ],
)
def test_an_sae_of_something_else_is_refused(scene: Scene, tmp_path: Path, wrong: dict, message: str) -> None:
    path = saved_by_saelens(tmp_path / "sae", scene, **wrong)
    with pytest.raises(Problem, match=message):
        results(scene, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"architecture": "gated", "d_in": 32, "d_sae": 48}'])
def test_a_configuration_that_says_nothing_is_refused(scene: Scene, tmp_path: Path, text: str) -> None:
    path = shutil.copytree(scene.runs["topk"] / "sae", tmp_path / "sae")
    (path / "cfg.json").write_text(text)
    with pytest.raises(Problem, match="saved SAE"):
        results(scene, path, tmp_path / "out")


@pytest.mark.parametrize("k", [0, D_SAE + 1, 4.7, "4"])
def test_a_k_that_no_sae_has_is_refused(scene: Scene, tmp_path: Path, k: object) -> None:
    path = saved_by_saelens(tmp_path / "sae", scene)
    config = json.loads((path / "cfg.json").read_text())
    (path / "cfg.json").write_text(json.dumps(config | {"k": k}))
    with pytest.raises(Problem, match=r"(?s)cannot be read.*from 1 to d_sae = 48"):
        results(scene, path, tmp_path / "out")


@pytest.mark.parametrize("name", ["W_enc", "b_dec", "threshold"])
def test_weights_that_are_no_numbers_are_refused(scene: Scene, tmp_path: Path, name: str) -> None:
    path = saved_by_gemma_scope(tmp_path / "res", scene)
    with np.load(path) as arrays:
        found = {key: arrays[key] for key in arrays.files}
    found[name] = np.where(np.arange(found[name].size).reshape(found[name].shape) == 3, np.nan, found[name])
    np.savez(path, **found)
    with pytest.raises(Problem, match=f"(?s)no file of Gemma Scope.*1 of .* numbers of {name} are not finite"):
        results(scene, path, tmp_path / "out")


def test_thresholds_below_zero_pass_what_saelens_passes(scene: Scene, tmp_path: Path) -> None:
    theirs = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(d_in=D, d_sae=D_SAE))
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    theirs.threshold.data[0] = torch.inf  # a latent that never fires
    theirs.save_model(tmp_path / "sae")
    x = torch.randn(64, D, generator=generator)
    codes = theirs.encode(x)
    assert (codes[:, theirs.threshold < 0] > 0).any() and not codes[:, 0].any()
    torch.testing.assert_close(load(tmp_path / "sae").encode(x), codes)


def test_many_latents_are_measured_in_smaller_groups() -> None:
    def task(layer: int, d_sae: int) -> Task:
        return Task(Path(), "", ForeignSAE(Path(), {"layer": layer, "d_sae": d_sae}, {}), {}, {}, [])

    narrow, wide = [task(11, 2304) for _ in range(9)], [task(5, 16384) for _ in range(3)]
    sizes = [(group[0].subject.layer, len(group)) for group in together([*narrow, task(5, 65536), *wide])]
    assert sizes == [(5, 1), (5, 2), (5, 1), (11, 4), (11, 4), (11, 1)]


def test_a_file_that_is_no_sae_is_refused(scene: Scene, tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", W_enc=np.zeros((D, D_SAE)))
    with pytest.raises(Problem, match="no file of Gemma Scope"):
        results(scene, tmp_path / "params.npz", tmp_path / "out")

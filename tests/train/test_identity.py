"""What decides the content of a training decides its fingerprint."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest

import store
from stages.sae import find_variant, load_variants
from stages.train import Run, fingerprint, identity, train_together
from stages.train.identity import ONLY_FOR, ROOT, code_of, syntax
from store.files import digest
from tests.train import small

TABLE = load_variants(small.TABLE)
ALL = [name for name in TABLE if "+" not in name] + ["warmup2000+no-temporal", "t-sae+no-temporal", "window3+permuted"]


def test_fingerprint_follows_what_decides_the_content(activations: store.ActivationStore) -> None:
    config = small.config()
    same = replace(config, checkpoint_every=1, guard_every=1)
    other = [
        replace(config, seed=1),
        replace(config, steps=31),
        replace(config, batch_rows=5),
        replace(config, d_sae=33),
        replace(config, k=5),
        replace(config, log_every=4),
        replace(config, variant=small.variant(lr=1e-4)),
        replace(config, variant=small.variant("baseline")),
    ]
    prints = [fingerprint(each, activations.root, small.LAYER) for each in (config, same, *other)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(other) + 1


def test_comments_and_docstrings_do_not_count_as_code() -> None:
    plain = "def f():\n    x = 'one'\n    return x\n"
    told = '"""A module."""\ndef f():\n    """Why."""\n    x  =  "one"  # one\n    """What."""\n    return x\n'
    other = plain.replace("one", "two")
    found = [digest(ast.dump(syntax(source.encode()))) for source in (plain, told, other)]
    assert found[0] == found[1] != found[2]


def test_texts_and_code_that_only_reads_outdate_nothing(activations: store.ActivationStore) -> None:
    row = small.variant()
    told = replace(row, source="other", reading="other", reported="other")
    one, other = (fingerprint(small.config(each), activations.root, small.LAYER) for each in (row, told))
    assert one == other


@contextmanager
def modules_called() -> Iterator[set[str]]:
    """Names of the modules of both packages of which a function is called meanwhile."""
    called: set[str] = set()
    packages = [str(ROOT / "stages" / package) for package in ("sae", "train")]

    def note(frame: FrameType, event: str, _argument: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith((packages[0], packages[1])):
            called.add(".".join(Path(file).relative_to(ROOT).with_suffix("").parts))

    sys.setprofile(note)
    try:
        yield called
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("name", ALL)
def test_every_module_that_a_training_calls_is_part_of_it(
    name: str, activations: store.ActivationStore, tmp_path: Path
) -> None:
    row = find_variant(TABLE, name)
    run = Run.of(small.config(small.scaled(row), steps=40), activations, small.LAYER, tmp_path / "run")
    with modules_called() as called:
        train_together([run])
    assert {"stages.train.trainer", "stages.sae.model"} <= called
    assert called <= set(code_of(row)), called - set(code_of(row))


def test_code_that_a_row_does_without_outdates_it_not() -> None:
    found = {name: set(code_of(find_variant(TABLE, name))) for name in ALL}
    parts = {"stages.sae.inputs", "stages.sae.attention", "stages.train.temporal", "stages.sae.threshold"}
    assert not found["topk"] & parts and parts <= found["tsa-core"]
    everything = set.union(*found.values())
    assert not everything & {"stages.sae.loading", "stages.sae.table", "stages.sae.saelens", "stages.train.estimate"}
    assert set(ONLY_FOR) <= everything


def test_a_module_of_the_same_bits_counts_as_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "same_bits.json"
    monkeypatch.setattr(identity, "SAME_BITS", file)

    def code(same: dict[str, dict[str, str | None]]) -> dict[str, str]:
        file.write_text(json.dumps(same))
        identity.same_bits.cache_clear()
        return code_of(TABLE["topk"])

    plain = code({})
    loop, rates = "stages.train.loop", "stages.train.rates"
    other = {"stages.train.plan": {plain[loop]: "of another module"}}
    found = code({loop: {plain[loop]: "before"}, rates: {plain[rates]: None}, **other})
    identity.same_bits.cache_clear()
    expected = {**plain, loop: "before"}
    del expected[rates]
    assert found == expected

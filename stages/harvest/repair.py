"""Making bad files of a harvested store again: the text by packing it again, activations by the language model.

`store.repair` keeps only what has the recorded bytes, so another model, text or machine can do no harm.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from stages.harvest.activations import harvest_shard
from stages.harvest.card import known_facts
from stages.harvest.config import HarvestConfig
from stages.harvest.plan import follow
from stages.harvest.request import make_request
from stages.harvest.sequences import write_sequences
from stages.language_model.config import CorpusConfig, ModelConfig
from stages.language_model.model import LanguageModel, load
from stages.language_model.runner import LayerRunner
from store import StoreSpec, StoreWriter
from store.card import card
from store.files import PARTIAL, digest
from store.layout import CARD
from store.manifest import Manifest
from store.problem import Problem
from store.progress import Progress
from store.repair import Parts, Remake
from store.verify import wrong_contents


def from_request(
    folder: Path, manifest: Manifest, bad: Collection[str], progress: Progress
) -> Iterator[tuple[str, Parts]]:
    """The card, whose facts follow from request and plan. Nothing for a store that no harvest made."""
    facts = known_facts(manifest)
    if CARD in bad and facts:
        yield CARD, (card(manifest, facts),)


def from_harvest(config: HarvestConfig, model: ModelConfig, text: CorpusConfig) -> Remake:
    """A way to mend a store that these parameters made, on a machine that can follow its plan."""

    def make(folder: Path, manifest: Manifest, bad: Collection[str], progress: Progress) -> Iterator[tuple[str, Parts]]:
        layout = manifest.layout
        packed = (layout.sequence_files() - set(layout.metadata())).intersection(bad)
        shards = [s for s in range(layout.n_shards) if not set(layout.shard_files(s).values()).isdisjoint(bad)]
        if not packed and not shards:
            return
        request = make_request(config, model, text, progress)
        if digest(request) != manifest.fingerprint:
            raise Problem(
                "The parameters are not those that this store was harvested with.",
                where=folder.absolute(),
                expected=f"fingerprint {manifest.fingerprint}",
                found=f"fingerprint {digest(request)}",
                do="name the profile it was harvested with (--profile), or another copy of it (--from)",
            )
        lm = load(model, progress)
        if packed:
            yield from _packed_again(folder, manifest, packed, lm, text, config, progress)
        if shards:
            yield from _run_again(folder, manifest, shards, bad, lm, config, progress)

    return make


def _packed_again(
    folder: Path,
    manifest: Manifest,
    bad: Collection[str],
    lm: LanguageModel,
    text: CorpusConfig,
    config: HarvestConfig,
    progress: Progress,
) -> Iterator[tuple[str, Parts]]:
    """Pack the corpus into a store beside this one, of which the text is taken."""
    spec = StoreSpec(manifest.request, manifest.context, manifest.dtype, manifest.layers)
    with TemporaryDirectory(prefix=f"{folder.name}.", suffix=PARTIAL, dir=folder.parent) as place:
        with StoreWriter.open(Path(place) / "text", spec) as writer:
            write_sequences(writer, lm, text, config, progress)
        for name in sorted(bad):
            again = Path(place) / "text" / name
            if again.is_file():
                yield name, (again.read_bytes(),)


def _run_again(
    folder: Path,
    manifest: Manifest,
    shards: list[int],
    bad: Collection[str],
    lm: LanguageModel,
    config: HarvestConfig,
    progress: Progress,
) -> Iterator[tuple[str, Parts]]:
    """Run the language model over the tokens of these shards, as the recorded plan has it."""
    plan = follow(manifest.plan, lm)
    runner = LayerRunner(lm, config.layer_list, compile=plan.compiled)
    layout = manifest.layout
    progress.start("harvest", sum(len(layout.tokens.shard_rows(s)) for s in shards) * layout.context, "tokens")
    for shard in shards:
        name = layout.tokens.shard_path(shard)
        if wrong_contents(folder, {name: manifest.files[name]}):
            continue  # its text could not be mended either
        tokens = np.array(layout.tokens.map(folder, shard))
        payload = harvest_shard(tokens, runner, config, plan, progress)
        for layer, path in layout.shard_files(shard).items():
            if path in bad:
                yield path, layout.activations[layer].encode(payload[layer])

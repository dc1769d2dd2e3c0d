"""Unlearn with SAEs, and with RMU beside them: from runs to `unlearning.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.evaluate.foreign import read_subject
from stages.evaluate.run import check_model
from stages.evaluate.subject import Subject
from stages.evaluate.unlearned import RMU, UNLEARNING
from stages.language_model.config import ModelConfig
from stages.language_model.model import LanguageModel, dtype_of, load
from stages.language_model.splice import Splice
from stages.unlearn.config import UnlearnConfig
from stages.unlearn.judge import Asked, Interventions, accuracies, ask, known, losses, untouched
from stages.unlearn.latents import firing_shares
from stages.unlearn.material import Material
from stages.unlearn.output import Unlearning, digits_name
from stages.unlearn.rmu import RMUConfig, rmu
from stages.unlearn.scoring import Scoring, scoring_of
from stages.unlearn.sweep import Clamps, Outcome, outcome, settings_of
from stages.unlearn.text import Rows, pack
from store import ActivationStore
from store import open as open_store
from store.files import digest, write_json
from store.problem import Problem
from store.progress import SILENT, Progress

UNLEARN_VERSION = 5
"""Raised whenever a change to this code changes a number, or what is kept beside it."""


@dataclass(frozen=True)
class UnlearnResult:
    """What the unlearning of one run ended with."""

    name: str
    """`variant/seed`."""
    path: Path
    """Where it is kept."""
    document: Mapping[str, Any]
    """What is there."""
    did: str
    """`unlearned`, or `finished before`."""


def unlearn(
    runs: Sequence[tuple[Path, Path]],
    store: str | Path,
    lm_config: ModelConfig,
    material: Material,
    config: UnlearnConfig,
    rmu_out: Path | None = None,
    *,
    by_digits: bool = False,
    progress: Progress = SILENT,
) -> list[UnlearnResult]:
    """Clamp the latents of each run's SAE that fire on the text to forget, and measure what the model still knows.

    Args:
        runs: pairs of what holds the SAE, as `evaluate` takes it, and the folder that receives `unlearning.json`.
        store: the activation store that the SAEs belong to.
        rmu_out: RMU at the layer of the first run goes into the folder `layer<L>` of this one; None leaves it out.
        by_digits: name results `unlearning-<digits>.json`, the digits those of their fingerprints, so that those of
            one material do not take the place of another's.

    Raises:
        Problem: an SAE of something else, text that gives no full row, questions of which the model knows none.
    """
    opened = open_store(store)
    subjects = [(read_subject(path, opened), out) for path, out in runs]
    decided = {
        "version": UNLEARN_VERSION,
        "material": digest(
            [asdict(questions) for questions in material.questions] + [*material.forget, "", *material.retain]
        ),
        "config": asdict(config),
        "model": [lm_config.name, str(dtype_of(lm_config))],
        "store": opened.root,
    }
    layer = subjects[0][0].layer
    jobs: list[tuple[Path, dict[str, Any], Subject | None]] = [
        (out, {**decided, "run": subject.identity}, subject) for subject, out in subjects
    ]
    if rmu_out is not None:
        jobs.append((rmu_out / f"layer{layer}", {**decided, RMU: asdict(RMUConfig(layer))}, None))
    paths = [out / (digits_name(digest(own)) if by_digits else UNLEARNING) for out, own, _ in jobs]
    found = [_finished(path, digest(own)) for path, (_, own, _) in zip(paths, jobs, strict=True)]
    did = ["finished before" if document else "unlearned" for document in found]
    if not all(found):
        lm = load(lm_config, progress)
        check_model(opened, lm.name, lm.identity)
        session = _Session.prepare(lm, opened, layer, material, config, progress)
        session.check(
            [subject for document, (_, _, subject) in zip(found, jobs, strict=True) if subject and not document]
        )
    documents = [
        document or session.write(path, own, subject, progress)
        for document, path, (_, own, subject) in zip(found, paths, jobs, strict=True)
    ]
    names = [subject.name if subject else RMU for _, _, subject in jobs]
    return [UnlearnResult(*result) for result in zip(names, paths, documents, did, strict=True)]


def _finished(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """The results of this very unlearning, if they are there."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        return document if document["eval_result_unstructured"]["fingerprint"] == fingerprint else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Session:
    """What all interventions share: the model, the texts and the questions that it can answer."""

    lm: LanguageModel
    layer: int
    scoring: Scoring
    config: UnlearnConfig
    judged: Mapping[str, Rows]
    """Text to forget and to retain, on which the loss is measured."""
    others: Mapping[str, Rows]
    """More of both, on which latents are chosen and RMU is trained."""
    asked: Mapping[str, Sequence[Asked]]
    """By set, the known questions."""
    facts: Mapping[str, Any]
    """What `unlearning.json` says of the material."""

    @classmethod
    def prepare(
        cls,
        lm: LanguageModel,
        store: ActivationStore,
        layer: int,
        material: Material,
        config: UnlearnConfig,
        progress: Progress,
    ) -> _Session:
        """Pack the texts and find out what the model knows."""
        judged, others = {}, {}
        for kind, texts in {"forget": material.forget, "retain": material.retain}.items():
            rows = pack(texts, lm, store.context, config.rows + config.loss_rows, config.seed)
            judged[kind], others[kind] = rows.parted(config.loss_rows)
        scoring, splice = scoring_of(config.scoring, lm), Splice(lm, layer)
        places = {each.name: known(splice, scoring, each, config.batch_rows, progress) for each in material.questions}
        counts = {
            each.name: {"questions": len(each.questions), "known": len(places[each.name])}
            for each in material.questions
        }
        _check_known(counts, material.forget_set)
        asked = {each.name: ask(scoring, each, places[each.name]) for each in material.questions}
        facts = {
            "context": store.context,
            "prompts": scoring.kind,
            **{f"{kind}_rows": len(rows.tokens) for kind, rows in others.items()},
            **{f"{kind}_loss_rows": len(rows.tokens) for kind, rows in judged.items()},
            "questions": counts,
            "forget_set": material.forget_set,
        }
        return cls(lm, layer, scoring, config, judged, others, asked, facts)

    def check(self, subjects: Sequence[Subject]) -> None:
        """A Problem where an SAE does not know the positions of all questions; nothing is measured before."""
        prompts = [prompt for asked in self.asked.values() for each in asked for prompt in each.prompts]
        longest = max(len(prompt.tokens) for prompt in prompts)
        for subject in subjects:
            subject.load_for(longest, "the longest questions", do="leave those out that are longer")

    def write(
        self, path: Path, decided: Mapping[str, Any], subject: Subject | None, progress: Progress
    ) -> dict[str, Any]:
        """Make and keep the results of a subject; of RMU without one."""
        done = self._with_sae(decided, subject, progress) if subject else self._with_rmu(decided, progress)
        document = done.document()
        write_json(path, document)
        return document

    def _with_sae(self, decided: Mapping[str, Any], subject: Subject, progress: Progress) -> Unlearning:
        """The sweep with one SAE."""
        splice, sae, size = Splice(self.lm, subject.layer), subject.load().to(self.lm.device), self.config.batch_rows
        shares = {}
        for name, rows in self.others.items():
            progress.start(f"firings of {subject.name} on {name} text", -(-len(rows.tokens) // size), "batches")
            shares[name] = firing_shares(sae, splice, rows, size, progress)
        settings = settings_of(self.config, shares["forget"], shares["retain"])
        clamping = [setting for setting in settings if setting.latents]
        if len(clamping) < len(settings):
            progress.note(
                f"{subject.name}: {len(settings) - len(clamping)} of {len(settings)} settings clamp nothing, as every "
                "latent that fires on the text to forget fires on too much of the text to retain"
            )
        outcomes = self._outcomes(splice, Clamps(sae, clamping), subject.name, progress)
        baseline = outcomes.pop("")
        sweep = [(asdict(setting), outcomes.get(setting.name, baseline)) for setting in settings]
        return self._unlearning(decided, subject.ids, subject.sae_config, baseline, sweep)

    def _with_rmu(self, decided: Mapping[str, Any], progress: Progress) -> Unlearning:
        """RMU at the layer, and the untouched model beside it."""
        config = RMUConfig(self.layer, seed=self.config.seed)
        trained = rmu(self.lm, self.others["forget"], self.others["retain"], config, progress)
        baseline, changed = (
            self._outcomes(Splice(lm, self.layer), untouched, name, progress)[""]
            for name, lm in (("the untouched model", self.lm), ("RMU", trained))
        )
        return self._unlearning(decided, (RMU, f"layer{self.layer}"), {}, baseline, [(asdict(config), changed)])

    def _outcomes(
        self, splice: Splice, interventions: Interventions, name: str, progress: Progress
    ) -> dict[str, Outcome]:
        """By intervention."""
        size, right = self.config.batch_rows, {}
        for subject, asked in self.asked.items():
            progress.start(f"{name} asked about {subject}", len(asked), "questions")
            right[subject] = accuracies(splice, self.scoring, asked, interventions, size, progress)
        texts = {}
        for kind, rows in self.judged.items():
            progress.start(f"loss of {name} on {kind} text", -(-len(rows.tokens) // size), "batches")
            texts[kind] = losses(splice, rows, interventions, size, progress)
        forget_set = self.facts["forget_set"]
        none = np.zeros(0, dtype=bool)
        return {
            key: outcome(
                {subject: of.get(key, none) for subject, of in right.items()},
                forget_set,
                texts["forget"][key],
                texts["retain"][key],
            )
            for key in texts["forget"]
        }

    def _unlearning(
        self,
        decided: Mapping[str, Any],
        ids: tuple[str, str],
        sae_config: Mapping[str, Any],
        baseline: Outcome,
        sweep: Sequence[tuple[Mapping[str, Any], Outcome]],
    ) -> Unlearning:
        model = {"name": self.lm.name, "dtype": str(self.lm.dtype).removeprefix("torch.")}
        return Unlearning(decided, ids, sae_config, model, self.config, self.facts, baseline, sweep)


def _check_known(counts: Mapping[str, Mapping[str, int]], forget_set: str) -> None:
    """A Problem where the model knows nothing that could be forgotten, or nothing that could be lost."""
    retained = sum(count["known"] for name, count in counts.items() if name != forget_set)
    if counts[forget_set]["known"] and retained:
        return
    found = ", ".join(f"{name}: {count['known']} of {count['questions']}" for name, count in counts.items())
    raise Problem(
        "No score can be given: the model answers no question of a side, whatever the order of its choices.",
        expected="known questions on what to forget and on what to keep",
        found=found,
        do="give questions that it can answer, or set unlearn.scoring to completion",
    )

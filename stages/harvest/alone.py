"""The harvest's forward passes in this process alone."""

from __future__ import annotations

import time
from dataclasses import dataclass

from stages.harvest.activations import harvest_shards, start_bar, warm_up
from stages.harvest.config import HarvestConfig
from stages.harvest.plan import HarvestPlan, decide, follow
from stages.harvest.selfcheck import SelfCheck, self_check
from stages.language_model.model import LanguageModel
from stages.language_model.runner import LayerRunner
from store import StoreWriter
from store.progress import Progress


@dataclass(frozen=True)
class Alone:
    """This process and the model in it."""

    lm: LanguageModel
    config: HarvestConfig

    def decide(self, tokens: int) -> tuple[HarvestPlan, str | None]:
        """The plan of this machine for `tokens` positions, and a notice where there is something to say."""
        return decide(self.config, self.lm, tokens)

    def run(self, writer: StoreWriter, progress: Progress) -> tuple[float, SelfCheck]:
        """Fill every missing shard under the recorded plan, and check the whole.

        Returns the seconds that the shards took, compilation left out, and what the check saw.
        """
        plan = follow(writer.plan, self.lm)
        runner = LayerRunner(self.lm, self.config.layer_list, compile=plan.compiled)
        if plan.compiled and writer.missing_shards():
            progress.note("compiling the model for this harvest (20 s to a minute)")
            warm_up(runner, writer, plan)
        start_bar(writer, self.config, progress)
        begun = time.monotonic()
        harvest_shards(writer, runner, self.config, plan, progress)
        seconds = time.monotonic() - begun
        return seconds, self_check(writer, self.lm, runner, self.config, plan)

"""Stage 1: text -> activation store. The language model runs once, in token order."""

from stages.harvest.config import HarvestConfig
from stages.harvest.harvest import HarvestResult, harvest

__all__ = ["HarvestConfig", "HarvestResult", "harvest"]

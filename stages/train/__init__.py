"""Stage 2: trains SAEs from an activation store, without a language model."""

from stages.train.config import TrainConfig, TrainSizes, make_config
from stages.train.guards import Collapse
from stages.train.identity import fingerprint
from stages.train.loop import train, train_together
from stages.train.plan import TrainPlan, check_plan, make_plan
from stages.train.run import Run, TrainResult

__all__ = [
    "Collapse",
    "Run",
    "TrainConfig",
    "TrainPlan",
    "TrainResult",
    "TrainSizes",
    "check_plan",
    "fingerprint",
    "make_config",
    "make_plan",
    "train",
    "train_together",
]

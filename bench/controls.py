"""What the temporal terms of `warmup2000` are worth: the variant and its controls, three seeds, 8,000 steps.

python -m bench.controls [--minutes M]     train and evaluate the rows that are missing, one after the other
python -m bench.controls --table           print the table from the rows that are there
"""

from __future__ import annotations

from bench.controls_table import table
from bench.rows import Job, command, read_rows

VARIANTS = ("warmup2000", "warmup2000+no-temporal", "warmup2000+permuted", "baseline", "topk")
SEEDS = (0, 1, 2)


if __name__ == "__main__":
    jobs = [Job(variant, seed) for seed in SEEDS for variant in VARIANTS]
    command(__doc__, jobs, lambda: table(read_rows(jobs)))

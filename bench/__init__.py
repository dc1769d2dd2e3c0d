"""Measurements side by side. Run each as `python -m bench.NAME`; figures land in bench/results/."""

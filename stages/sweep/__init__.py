"""Sweeps: grids of trainings on one store, trained and evaluated together, each cell a result."""

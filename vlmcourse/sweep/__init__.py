"""Sweeps: grids of trainings and measurements that are planned, run to the end, and judged."""

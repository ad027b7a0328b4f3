"""Measured answers: probes with controls, and timings, as records."""

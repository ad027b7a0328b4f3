"""Training: a stage is data (what trains, on what, from where), one module, one data module, one
runner."""

"""The ideas under study, one per file: tensors in, tensors out, no I/O and no hidden state."""

"""What runs a compiled experiment: programs, training, checkpoints and probes."""

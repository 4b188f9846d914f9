"""The workers: one process that holds the model on each card, and one that parses, delivers and sweeps."""

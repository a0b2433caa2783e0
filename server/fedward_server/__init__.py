"""The hub: rounds, aggregation, checkpoints, results."""

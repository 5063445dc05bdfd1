"""Slices of checkpoints, ragged attention, adapters and their training."""

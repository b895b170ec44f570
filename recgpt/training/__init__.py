"""Losses, batches and the two-stage recipe (needs torch and lightning)."""

"""Frozen features: first answers, choice of input size and model."""

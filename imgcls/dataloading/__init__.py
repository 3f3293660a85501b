"""Pixels on their way to the network."""

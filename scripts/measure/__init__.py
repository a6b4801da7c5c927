"""Measurements of speed and accuracy, run by `scripts/bench` and `scripts/accuracy`."""

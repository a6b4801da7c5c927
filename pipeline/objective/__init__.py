"""Training objectives: what a classifier is trained to minimize."""

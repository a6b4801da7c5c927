"""Whether a map can be believed: tests of a saliency method on a network, as pure functions."""

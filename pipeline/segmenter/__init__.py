"""Segmenters: boxes and masks of maps."""

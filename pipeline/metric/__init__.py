"""Metrics of boxes, maps and classifications against annotations."""

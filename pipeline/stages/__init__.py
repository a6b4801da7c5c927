"""Stages: the steps of a run, a folder each."""

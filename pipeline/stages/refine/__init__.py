"""Stage refine: a localization head learns from pseudo-labels."""

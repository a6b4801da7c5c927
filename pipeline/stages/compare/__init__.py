"""Stage compare: paired tests between methods and runs."""

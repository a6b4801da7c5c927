"""Stage annotate: what a person reviews, and what to do next."""

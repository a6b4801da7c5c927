"""Stage report: one HTML page."""

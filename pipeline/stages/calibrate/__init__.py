"""Stage calibrate: thresholds chosen on boxes that are not scored."""

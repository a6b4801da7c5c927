"""What stages leave on disk, and how it is read: maps, boxes, thresholds, tables."""

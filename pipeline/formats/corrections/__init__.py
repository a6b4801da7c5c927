"""Boxes that were corrected in annotation tools; each module reads a format."""

"""Stage train: from images and labels to a checkpoint."""

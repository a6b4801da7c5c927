"""What the files for containers and clusters in this folder use."""

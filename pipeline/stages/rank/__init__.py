"""Stage rank: how sure each box is, and which images to look at first."""

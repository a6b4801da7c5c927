"""Stage explain: saliency maps of a split."""

"""Saliency methods: maps of where a network looked."""

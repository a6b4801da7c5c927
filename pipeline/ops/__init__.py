"""Pure array functions that several packages share: boxes, maps, masks, hashes, text."""

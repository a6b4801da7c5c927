"""Stage localize: from maps to boxes."""

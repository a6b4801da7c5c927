"""How work is run, never what it computes: configuration, store, shards, devices, progress."""

"""What the commands of this folder run: benchmarks, accuracy, snapshots, pages."""

"""Speed and accuracy, measured: what `scripts/bench` and `scripts/accuracy` run."""

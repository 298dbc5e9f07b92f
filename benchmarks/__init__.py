"""What ``make bench`` measures: every figure beside a peer measured in the same run."""

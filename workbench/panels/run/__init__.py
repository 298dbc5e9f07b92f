"""Train: settings, Start, Pause, Cancel, live pictures, and runs of the past."""

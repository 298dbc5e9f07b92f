"""A run on disk, readable without torch: its folder, its ledger, what it tells."""

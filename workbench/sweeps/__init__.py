"""Many runs side by side, on this machine or a Dask cluster, and what they cost together."""

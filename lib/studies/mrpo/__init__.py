"""MRPO (40_mrpo): preference optimisation against several references."""

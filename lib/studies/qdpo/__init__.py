"""QDPO (10_qdpo): a quantized model and its repairs."""

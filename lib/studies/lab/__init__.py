"""LAB (20_lab): a taxonomy taught in phases."""

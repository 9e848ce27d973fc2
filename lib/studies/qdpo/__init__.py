"""QDPO (10_qdpo): a quantized model and its repairs. `study` is the record that all arms share, `labels` the pairs'
log-probs, `repair` the arms, `measures` what is recorded of each, `take_home` what is kept for `plumbline export`."""

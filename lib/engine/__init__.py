"""What loads, runs and trains a language model: one fast path for log-probabilities, sampling and optimisation, used by
every study."""

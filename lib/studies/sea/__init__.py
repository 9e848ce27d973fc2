"""SEA (50_sea): online alignment; the bandit itself is `lib.bandit`. `cells` is the grid of exact worlds, `tuning` the
rate of every method in each, `language` the world of a language model."""

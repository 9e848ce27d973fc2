"""SEA (50_sea): online alignment; the bandit itself is `lib.bandit`."""

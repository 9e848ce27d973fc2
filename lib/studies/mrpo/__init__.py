"""MRPO (40_mrpo): preference optimisation against several references.

The way of a preference pair through this house; each module imports only those above it:
1. `candidates` - a prompt and its answers, sampled by `answers` or people's; a pair is a `Choice` of a row and two of
   its answers.
2. `tasks` - one oracle's choices: what trains, what makes the second reference, what validates, what tests.
3. `world` - one record: the model, what its frozen blocks make of every candidate (`pieces`), and stored weights.
4. `scores` - log-probs of candidates under a stored model, each computed once; of pairs, by reference (`table`).
5. `training` - the steps: the top on a pair's pieces gives two log-probs, the given loss the rest; no arms here.
6. `reference_models` - makes a task's references by 5 and stores their weights, or scores another model once.
7. `arms` - a line of a table says how the numbers of 4 become a pair's reference, and so the loss that 5 takes.
8. `measures` - the trained policy's log-probs of the test pairs (4) beside the same table: items, metrics, samples.
9. `experiments` - 5, 7 and 8 in a row for an arm: what the notebook calls.

The tilted language model solves what these train, and its numbers alone decide claims about language: `tilts`
(features of answers, references, outcomes), `tilt_arms` (a line of the table as a convex problem, the cells, records).

The exact world stands apart: `exact` (worlds, references, outcomes), `convex` (losses solved), `exact_arms` (a line of
the table as a convex problem), `exact_map` (the cells and the map that are recorded).
"""

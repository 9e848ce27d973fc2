"""LAB (20_lab): a taxonomy taught in phases. What happens to a row, module by module:

1. `lib.taxonomy`: a leaf and its seeds; `settings` refuses a tree that this study cannot do with.
2. `lib.synthesis`: the row is drawn, asked for, answered, judged and kept (its own walk stands there).
3. `questions`: a row that asks what an exam asks is taken out; held-out questions are made.
4. `curricula.parts`, `subsets`: it comes into one of three buckets, with as many others as are wanted.
5. `student.rows`: it becomes token ids, read once by the blocks that do not learn.
6. `curricula.phases`, or `contrast`: it is put in an order with the others.
7. `jobs`: a student is trained on it (`lib.engine.phases`), sits the exams, and goes on record.
8. `coverage`, `judging`, `forgetting`: what is measured of its sampler, its judge, its phase.
"""

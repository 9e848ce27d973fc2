from collections import Counter

import pytest

from lib import taxonomy
from lib.harness.paths import DATA
from lib.synthesis import samplers

SKILLS = [leaf for leaf in taxonomy.load(DATA / "taxonomy") if leaf.kind in ("foundational", "freeform")]
MADE = [{"question": f"Made {i}?", "answer": "Yes."} for i in range(9)]


def all_three(calls=60, size=3, seed=0):
    return [
        f(SKILLS, calls=calls, size=size, seed=seed) for f in (samplers.pool, samplers.leaf_local, samplers.fake_leaf)
    ]


def prompts(sampler, made=()):
    return [sampler.draw(call, made) for call in range(sampler.calls)]


def test_all_make_equal_numbers_of_calls_of_equal_size_and_follow_the_seed():
    for sampler, again, other in zip(all_three(), all_three(), all_three(seed=1)):
        drawn = prompts(sampler)
        assert len(drawn) == sampler.calls == 60 and [p.call for p in drawn] == list(range(60))
        assert all(len(set(p.examples)) == 3 for p in drawn)
        assert drawn == prompts(again) and drawn != prompts(other)
        assert sampler.draw(17, ()) == drawn[17]  # whatever was drawn before


def test_leaf_prompts_never_mix_leaves_and_the_leaves_take_turns():
    drawn = prompts(all_three()[1])
    by = {leaf.path: leaf for leaf in SKILLS}
    assert all({x.leaf for x in p.examples} == {p.leaf} and p.task == by[p.leaf].task for p in drawn)
    assert set(Counter(p.leaf for p in drawn).values()) == {60 // len(SKILLS)}
    assert len({p.leaf for p in drawn[: len(SKILLS)]}) == len(SKILLS)


def test_fake_leaves_are_the_same_seeds_in_groups_of_the_same_sizes():
    sampler = samplers.fake_leaf(SKILLS, calls=3000, size=1, seed=0)
    groups: dict[str, set] = {}
    for p in prompts(sampler):
        groups.setdefault(p.leaf, set()).update(p.examples)
    assert sorted(map(len, groups.values())) == sorted(len(leaf.seeds) for leaf in SKILLS)
    assert set.union(*groups.values()) == {x for leaf in SKILLS for x in samplers.examples(leaf)}
    assert sum(map(len, groups.values())) == sum(len(leaf.seeds) for leaf in SKILLS)
    mixed = [p for p in prompts(all_three()[2]) if len({x.leaf for x in p.examples}) > 1]
    assert len(mixed) > 40 and all(p.task == "" for p in prompts(all_three()[2]))


def test_the_pool_is_in_proportion_to_the_seeds_and_is_fed_with_what_was_made():
    drawn = prompts(samplers.pool(SKILLS, calls=2000, size=1, seed=0))
    share = sum(p.examples[0].leaf.endswith("addition") for p in drawn) / 2000
    assert abs(share - 40 / sum(len(leaf.seeds) for leaf in SKILLS)) < 0.04
    fed = samplers.pool(SKILLS, calls=20, size=4, seed=0, machine=2)
    assert all(sum(x.leaf == "" for x in p.examples) == 2 for p in prompts(fed, MADE))
    assert all(sum(x.leaf == "" for x in p.examples) == 1 for p in prompts(fed, MADE[:1]))
    assert all(len(p.examples) == 4 for p in prompts(fed))


def test_quotas():
    assert samplers.weighted_quotas({"a": 1, "b": 3}, 8) == {"a": 2, "b": 6}
    assert samplers.weighted_quotas({"a": 0, "b": 0, "c": 0}, 8) == {"a": 3, "b": 3, "c": 2}
    assert samplers.weighted_quotas({"a": 0, "b": 0.9}, 10, least=2) == {"a": 2, "b": 8}
    failures = {leaf.path: i / 11 for i, leaf in enumerate(SKILLS)}
    quotas = samplers.weighted_quotas(failures, 60)
    assert (
        sum(quotas.values()) == 60 and quotas[SKILLS[0].path] == 0 and quotas[SKILLS[-1].path] == max(quotas.values())
    )
    drawn = prompts(samplers.leaf_local(SKILLS, calls=60, size=2, seed=0, quotas=quotas))
    assert Counter(p.leaf for p in drawn) == Counter({k: v for k, v in quotas.items() if v})


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: samplers.leaf_local(SKILLS, calls=9, size=6, seed=0),
            r"json_record has 5 seeds, too few for prompts of 6 examples",
        ),
        (lambda: samplers.fake_leaf(SKILLS, calls=9, size=6, seed=0), "has 5 seeds, too few for prompts of 6"),
        (
            lambda: samplers.leaf_local([], calls=9, size=1, seed=0),
            "at least 1 leaf, call and example .* given 0, 9 and 1",
        ),
        (lambda: samplers.leaf_local(SKILLS, calls=0, size=1, seed=0), "given 12, 0 and 1"),
        (lambda: samplers.pool(SKILLS, calls=9, size=200, seed=0), "prompts of 1 to 98 examples .* given 200 and 0"),
        (lambda: samplers.pool(SKILLS, calls=9, size=2, seed=0, machine=2), "given 2 and 2"),
        (
            lambda: samplers.leaf_local(SKILLS, calls=9, size=1, seed=0, quotas={SKILLS[0].path: 9}),
            "quotas are of the 12 leaves and add up to 9",
        ),
        (
            lambda: samplers.weighted_quotas({"a": -1}, 3),
            "weights are at least 0, and 3 calls hold 0 for each leaf, given {'a': -1}",
        ),
        (lambda: samplers.weighted_quotas({"a": 1, "b": 1}, 3, least=2), "3 calls hold 2 for each leaf"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_sampler_by_name_tells_no_task():
    for name in samplers.NAMES:
        made = samplers.named(name, SKILLS, calls=12, size=2, seed=0)
        assert {made.draw(i, []).task for i in range(12)} == {""}, name
    with pytest.raises(ValueError, match="one of pool, self-instruct, leaf, fake-leaf, quota, given 'tree'"):
        samplers.named("tree", SKILLS, calls=12, size=1, seed=0)


def test_quotas_of_a_sampler_by_name():
    quotas = {leaf.path: int(k == 1) * 7 + int(k == 3) * 5 for k, leaf in enumerate(SKILLS)}
    made = samplers.named("leaf", SKILLS, calls=12, size=2, seed=0, quotas=quotas)
    turns = [made.draw(i, []).leaf for i in range(12)]
    assert {leaf: turns.count(leaf) for leaf in quotas} == quotas

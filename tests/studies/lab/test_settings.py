import pytest

from lib import taxonomy
from lib.harness import paths, presets
from lib.studies.lab import settings
from lib.synthesis import teachers


@pytest.mark.parametrize(
    ("given", "tree", "message"),
    [
        (
            {},
            lambda leaves: [x for x in leaves if x.kind != "knowledge"],
            "needs a knowledge leaf with facts.jsonl, and taxonomy has none; it has leaves of kind foundational, "
            "freeform, grounded",
        ),
        ({}, lambda leaves: [x for x in leaves if x.kind != "freeform"], "needs a freeform skill"),
        ({"DRAW_CALLS": 11}, list, "12 skills is called at least once, so .* given 11 and 12"),
        ({"ARMS": "phased,phased"}, list, "ARMS names phased twice"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_any_work(given, tree, message):
    leaves = taxonomy.load(paths.DATA / "taxonomy")
    settings.check(presets.resolve("lab", {"PRESET": "smoke", "SEED": 0}), leaves)
    with pytest.raises(ValueError, match=message):
        settings.check(presets.resolve("lab", {"PRESET": "smoke", "SEED": 0} | given), tree(leaves))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"STEPS": "²,3,3"}, "given '²,3,3'"),
        (
            {"STEPS": "3,3"},
            "3 whole numbers of at least 1, one for each of knowledge-short, knowledge-long, skills, given '3,3'",
        ),
        ({"STEPS": "3,0,3"}, "given '3,0,3'"),
        ({"NOISES": "0.2,much"}, "noises are numbers from 0 to 1, given 'much'"),
        ({"SHARES": "1.5"}, "shares are .* given '1.5'"),
    ],
)
def test_bad_settings_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        settings.steps(presets.resolve("lab", {"PRESET": "smoke", "SEED": 0} | given))


def test_the_paper_presets_steps_are_some_epochs_of_its_rows():
    """They once were 2,242 steps of 3,840 rows, on 660 rows."""
    cfg = presets.resolve("lab", {"PRESET": "paper", "SEED": 0})
    rows = cfg.per_leaf * len(taxonomy.load(paths.DATA / cfg.taxonomy))
    assert 3 <= sum(map(int, cfg.items_of("steps"))) * cfg.batch / rows <= 10


def test_how_a_served_teacher_is_asked(sandbox):
    given = {"TEACHER": "http://localhost:1/v1 m", "AT_ONCE": 3, "PER_MINUTE": 50, "PRICES": "0.5,1.5"}
    cfg = presets.resolve("lab", {"PRESET": "smoke", "SEED": 0} | given)
    teacher = teachers.load(cfg.teacher, [], seed=0, **settings.serving(cfg))
    assert teacher.patience[3:] == (3, 50) and teacher.prices == (0.5, 1.5)
    assert teacher.answers.path == paths.CACHE / "answers.sqlite" and teachers.spent(teacher)["asked"] == 0
    leaves = taxonomy.load(paths.DATA / "taxonomy")
    assert teachers.spent(teachers.load("templated", leaves, seed=0, **settings.serving(cfg))) == {}
    for wrong in ("cheap", "1", "1,-2"):
        with pytest.raises(ValueError, match="PRICES takes prices of a million tokens"):
            presets.resolve("lab", {"PRESET": "smoke", "SEED": 0, "PRICES": wrong})

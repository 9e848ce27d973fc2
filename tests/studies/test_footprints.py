"""Every study's stages on shapes alone, at the sizes of a test."""

import pytest

from lib.engine import known, memory
from lib.harness import notebooks, presets
from lib.studies import footprints


def test_every_paper_has_one():
    assert set(footprints.STUDIES) == set(notebooks.papers())


@pytest.mark.parametrize("paper", footprints.STUDIES)
def test_stages_have_a_height(paper):
    got = footprints.stages(paper, {"PRESET": "smoke", "SEED": 0})
    assert len(got) >= 3 and all(p.device > 0 for p in got.values())


def stage(paper, name, **settings):
    return footprints.stages(paper, {"PRESET": "smoke", "SEED": 0, **settings})[name]


def test_adapters_and_the_host_are_what_they_promise():
    name = "training: weights before the quantizer"
    here, there = stage("qdpo", name), stage("qdpo", name, HOST=True)
    assert there.device < here.device and there.host > here.host
    full, thin = (stage("mrpo", "training", BLOCKS=4, RANK=rank) for rank in (0, 2))
    assert thin.device < full.device


def test_two_processes_take_less_each():
    """Full precision is whole in each, the student and its latents are not; what begins at AWQ's weights is whole."""
    name, given = "training: weights before the quantizer", {"PRESET": "smoke", "SEED": 0, "ARMS": "fp,rtn,qdpo"}
    one = footprints.stages("qdpo", given)
    with memory.one_of(2):
        two = footprints.stages("qdpo", given)
        with pytest.raises(ValueError, match="^3 processes do not divide the rows of"):
            footprints.divides(presets.resolve("qdpo", given), 3)
    assert one.keys() == two.keys() and two[name].device < one[name].device
    assert 2 * two[name].host == one[name].host  # the snapshot of the latents; activations are most of so small a model
    assert footprints.stages("qdpo", given) == one


def test_models_are_known_by_folder_and_name_or_refused(tmp_path, tiny_model, monkeypatch):
    tiny_model.save_pretrained(tmp_path / "m")
    assert known.config_of(str(tmp_path / "m")).hidden_size == tiny_model.config.hidden_size
    assert known.config_of("tiny-random").hidden_size == tiny_model.config.hidden_size
    for spec in known.SHAPES:
        known.config_of(spec)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="shape of 'a/b' is not known here: give a folder"):
        known.config_of("a/b")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(ValueError, match="shape of '/no/where' is not known here"):
        known.config_of("/no/where")

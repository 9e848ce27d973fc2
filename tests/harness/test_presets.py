import copy
import json
import pickle

import pytest

from lib.harness import notebooks, presets
from lib.harness.presets import Setting, base

FAKE = """
from lib.harness.presets.base import Setting

SETTINGS = {
    "beta": Setting(smoke=0.1, small=0.1, paper=1, published=0.1, source="Sec. 4.1", help="strength", allowed=(0, 10)),
    "lr": Setting(smoke=1e-3, small=1e-4, paper=5e-7, published=5e-7, source="Table 7", help="learning rate"),
    "steps": Setting(
        smoke=2, small=50, paper=1000, published=None, source="not stated: ours", help="updates", allowed=(1, 10**6)
    ),
    "lora": Setting(smoke=False, small=True, paper=False, published=False, source="App. D", help="low rank?"),
    "model": Setting(
        smoke="tiny-random", small="embedded", paper="hub/model", published="hub/model", source="Sec. 5", help="policy"
    ),
    "judge": Setting(
        smoke="vader", small="vader", paper="gpt", published="gpt", source="App. D", help="judge",
        allowed=("vader", "gpt"),
    ),
    "bits": Setting(smoke=4, small=4, paper=4, published=4, source="Sec. 5", help="bits a weight", allowed=[4, 8]),
    "arms": Setting(
        smoke="fp,rtn", small="fp, rtn, qdpo", paper="fp,rtn,qdpo", published=None, source="Table 1",
        help="what is compared",
        allowed=("fp", "rtn", "qdpo"), many=True,
    ),
    "limit": Setting(smoke=20, small=200, paper=None, published=None, source="ours", help="rows; None takes all"),
}
"""


LISTS = """
from lib.harness.presets.base import Setting

of = lambda value, **more: Setting(
    smoke=value, small=value, paper=value, published=None, source="ours", help="a list", many=True, **more
)
SETTINGS = {
    "arms": of("fp", allowed=["fp", "rtn", "qdpo", "again"], always=("fp",), needs={"again": "qdpo"}),
    "prompts": of("p.jsonl"), "shares": of("1,2"), "phases": of("1,1", repeats=True),
}
"""


@pytest.fixture(autouse=True)
def _fake_paper(tmp_path, monkeypatch):
    (tmp_path / "fake_paper.py").write_text(FAKE)
    (tmp_path / "fake_lists.py").write_text(LISTS)
    monkeypatch.setattr(presets, "__path__", [*presets.__path__, str(tmp_path)])


def resolve(**namespace):
    return presets.resolve("fake_paper", {"PRESET": "small", "SEED": 0, **namespace})


def lists(**namespace):
    return presets.resolve("fake_lists", {"PRESET": "small", "SEED": 0, **namespace})


def setting(**changes):
    given = {"smoke": 1, "small": 1, "paper": 1, "published": None, "source": "ours", "help": "a number"}
    return Setting(**(given | changes))


# ------------------------------------------------------------------------------------------------ resolve


def test_preset_gives_the_values_and_parameters_override():
    assert "fake_paper" in presets.names() and "base" not in presets.names()
    cfg = resolve(BETA=0.3, STEPS=None, ARMS="qdpo, fp", LORA=False)
    assert (cfg.paper, cfg.preset, cfg.seed) == ("fake_paper", "small", 0)
    assert cfg.beta == cfg["beta"] == 0.3 and cfg.steps == 50 and cfg.lora is False
    assert cfg.items_of("arms") == ["qdpo", "fp"] and cfg.overrides == ("beta", "arms", "lora")
    assert resolve(PRESET="paper").as_dict() == {
        "beta": 1.0,
        "lr": 5e-7,
        "steps": 1000,
        "lora": False,
        "model": "hub/model",
        "judge": "gpt",
        "bits": 4,
        "arms": "fp,rtn,qdpo",
        "limit": None,
    }


def test_whole_numbers_become_floats_where_the_setting_is_one():
    assert type(resolve(BETA=1).beta) is float and type(resolve(PRESET="paper").beta) is float
    assert type(resolve(LIMIT=3).limit) is int


def test_notebook_globals_may_hold_other_things():
    import math

    cfg = resolve(MATH=math, Path=1, cfg=3, _=4, In=["x"], ROOT=math, GRID=[1, 2])
    assert cfg.overrides == ()


def test_misspelt_parameter_stops_with_the_nearest():
    with pytest.raises(
        presets.UnknownSetting, match=r"^fake_paper has no parameter BTEA, did you mean BETA\?; it has ARMS, BETA"
    ):
        resolve(BTEA=0.3)
    with pytest.raises(KeyError, match="no parameter SEEDS, did you mean SEED"):
        resolve(SEEDS=None)  # None too: a name that nobody reads is a mistake


@pytest.mark.parametrize(
    ("namespace", "error", "message"),
    [
        ({"LR": "5e-7"}, TypeError, r"LR takes a number, given '5e-7' \(str\): write 5.0e-7 without quotes"),
        ({"LR": "1e3"}, TypeError, "write 1000.0 without quotes"),
        ({"LR": "fast"}, TypeError, r"given 'fast' \(str\)$"),
        ({"LR": True}, TypeError, "LR takes a number, given True"),
        ({"LR": float("nan")}, ValueError, "LR is not a number"),
        ({"STEPS": True}, TypeError, "STEPS takes a whole number, given True"),
        ({"STEPS": 3.0}, TypeError, "STEPS takes a whole number, given 3.0"),
        ({"STEPS": "3"}, TypeError, "write 3 without quotes"),
        ({"STEPS": 0}, ValueError, "STEPS lies in 1 .. 1000000, given 0"),
        ({"BETA": 10.5}, ValueError, "BETA lies in 0 .. 10, given 10.5"),
        ({"BETA": float("nan")}, ValueError, "BETA"),
        ({"BETA": [0.1]}, TypeError, "BETA takes a number, given"),
        ({"LORA": 1}, TypeError, "LORA takes True or False, given 1"),
        ({"LORA": "False"}, TypeError, "LORA takes True or False"),
        ({"MODEL": 3}, TypeError, "MODEL takes a text"),
        ({"JUDGE": "vadr"}, ValueError, r"JUDGE takes one of vader, gpt, given 'vadr', did you mean vader\?"),
        ({"JUDGE": "vader,gpt"}, ValueError, "JUDGE takes one of"),
        ({"BITS": 6}, ValueError, "BITS takes one of 4, 8, given 6"),
        ({"ARMS": "fp,qpdo"}, ValueError, r"ARMS takes any of fp, rtn, qdpo, given 'qpdo', did you mean qdpo\?"),
        ({"ARMS": ["fp"]}, TypeError, "ARMS takes a text"),
        ({"ARMS": ""}, ValueError, "ARMS takes any of"),
        ({"PRESET": "tiny"}, ValueError, "PRESET takes one of smoke, small, study, paper, given 'tiny'"),
        ({"PRESET": None}, KeyError, "needs the parameter PRESET: one of smoke"),
        ({"SEED": None}, KeyError, "needs the parameter SEED"),
        ({"SEED": "0"}, TypeError, "SEED takes a whole number"),
        ({"SEED": True}, TypeError, "SEED takes a whole number"),
        ({"SEED": -1}, ValueError, "SEED is 0 or more"),
    ],
)
def test_bad_values_stop_in_one_sentence(namespace, error, message):
    with pytest.raises(error, match=message) as caught:
        resolve(**namespace)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "written"), [("5e-7", "5.0e-7"), ("2.5E-05", "2.5e-5"), ("1e20", "1.0e+20"), ("0.3", "0.3")]
)
def test_the_number_that_is_suggested_is_one_for_yaml(text, written):
    import yaml

    with pytest.raises(TypeError, match=rf"write {written.replace('+', '[+]')} without quotes"):
        resolve(LR=text)
    assert yaml.safe_load(written) == float(text)


def test_missing_preset_or_seed():
    with pytest.raises(KeyError, match="PRESET"):
        presets.resolve("fake_paper", {"SEED": 0})
    with pytest.raises(KeyError, match="SEED"):
        presets.resolve("fake_paper", {"PRESET": "small"})


def test_unknown_paper_lists_the_known():
    with pytest.raises(ValueError, match=r"'fake_papr', there are .*fake_paper.*did you mean fake_paper\?"):
        presets.resolve("fake_papr", {})


# ------------------------------------------------------------------------------------------------ Config


def test_config_cannot_be_changed():
    cfg = resolve()
    for change in (lambda: setattr(cfg, "beta", 1), lambda: setattr(cfg, "seed", 1), lambda: delattr(cfg, "beta")):
        with pytest.raises(AttributeError, match="fixed for a run"):
            change()
    with pytest.raises(TypeError):
        cfg["beta"] = 1
    cfg.as_dict()["beta"] = 9
    assert cfg.beta == 0.1


def test_config_is_a_mapping_that_helps_with_names():
    cfg = resolve()
    assert dict(cfg) == cfg.as_dict() and len(cfg) == 9 and "beta" in cfg and "btea" not in cfg
    with pytest.raises(KeyError, match="no setting 'btea', did you mean beta"):
        cfg["btea"]
    with pytest.raises(AttributeError, match="did you mean beta"):
        _ = cfg.btea
    assert copy.deepcopy(cfg) == cfg == pickle.loads(pickle.dumps(cfg)) and pickle.loads(pickle.dumps(cfg)).seed == 0
    assert json.dumps(cfg.as_dict())


def test_fingerprint_tells_runs_apart():
    prints = [resolve(**c).fingerprint() for c in ({}, {"BETA": 0.2}, {"SEED": 1}, {"PRESET": "smoke"}, {"LIMIT": 3})]
    assert len(set(prints)) == 5 and all(len(p) == 16 for p in prints)
    assert resolve(BETA=0.1).fingerprint() == prints[0]  # the same values, however given


# ------------------------------------------------------------------------------------------------ table, Setting


def test_table_shows_each_setting_beside_the_paper():
    frame = presets.table(resolve(BETA=0.3))
    assert list(frame.columns) == ["setting", "here", "paper", "source"] and len(frame) == 9
    rows = frame.set_index("setting")
    assert rows.loc["beta"].tolist() == [0.3, 0.1, "Sec. 4.1"]
    assert rows.loc["steps"].tolist() == [50, "not seen", "not stated: ours"] and type(rows.loc["steps", "here"]) is int
    assert rows.loc["lora", "paper"] is False


def test_settings_check_themselves():
    assert setting(smoke=0.5).kind is float and setting(smoke=0.5).small == 1.0
    with pytest.raises(ValueError, match="small lies in 2 .. 3, given 1"):
        setting(smoke=2, paper=3, allowed=(2, 3))
    with pytest.raises(TypeError, match=r"share one of .* given \['int', 'str'\]"):
        setting(small="1")
    with pytest.raises(TypeError, match="only None"):
        setting(smoke=None, small=None, paper=None)
    with pytest.raises(TypeError, match="list"):
        setting(smoke=[1], small=[1], paper=[1])
    with pytest.raises(ValueError, match="needs a source"):
        setting(source="")
    with pytest.raises(ValueError, match="many is for strings"):
        setting(many=True)


@pytest.mark.parametrize("name", ["Beta", "seed", "as_dict", "items", "2x"])
def test_names_that_would_hide_something_are_refused(name, tmp_path, monkeypatch):
    text = (
        "from lib.harness.presets.base import Setting\nS = dict(smoke=1, small=1, paper=1, published=1, source='s', "
        f"help='h')\nSETTINGS = {{{name!r}: Setting(**S)}}\n"
    )
    (tmp_path / f"odd_{name.lower()}.py").write_text(text)
    with pytest.raises(ValueError, match=f"{name!r} cannot name a setting"):
        presets.settings(f"odd_{name.lower()}")


def test_every_paper_resolves_at_every_preset():
    papers = [name for name in presets.names() if name != "fake_paper"]
    for paper in papers:
        for preset in presets.PRESETS:
            cfg = presets.resolve(paper, {"PRESET": preset, "SEED": 0})
            assert len(presets.table(cfg)) == len(cfg) > 0, (paper, preset)
        for name, known in presets.settings(paper).items():
            assert known.published is None or "not stated" not in known.source, (
                f"{paper}.{name}: a published value has a source"
            )
    assert base.NOT_SEEN == "not seen"


# ------------------------------------------------------------------------------------------------ names and lists


@pytest.mark.parametrize(
    "given", [{"seed": 7, "Beta": 50}, {"preset": "paper"}, {"limit": 3}, {"Arms": "fp"}, {"Steps": True}]
)
def test_a_name_in_other_case_stops_the_run(given):
    with pytest.raises(presets.UnknownSetting) as error:
        resolve(**given)
    assert all(name.upper() in str(error.value) and name in str(error.value) for name in given)


@pytest.mark.parametrize("cell, words", [
    ("# Parameters\nseed = 7\nBeta = 50\n", ["SEED", "BETA"]),
    ("# Parameters\nbetta = 1\n", ["betta", "did you mean BETA"]),
    ("# Parameters\nBETTA = [1]\n", ["BETTA", "did you mean BETA"]),
    ("# Parameters\nfoo = {'a': 1}\n", ["foo"]),
])  # fmt: skip
def test_whatever_papermill_injected_is_a_parameter_or_stops_the_run(cell, words):
    with pytest.raises(presets.UnknownSetting) as error:
        resolve(In=["", "PRESET = 'small'", cell], cfg=resolve())
    assert all(word in str(error.value) for word in words)


def test_what_is_no_parameter_passes():
    resolve(In=["", "# Parameters\nBETA = 0.3\nSEED = 0\n", "# Parameters of the plot\nfoo = 1"], other=1, Seeds=2)
    resolve(beta=print, steps=[1], arms={"a": 1})  # a module, a list: imports, never a parameter's value
    resolve(cfg=resolve(), beta=0.7, seed=3)  # setup runs again, the notebook has variables of its own


def test_items_that_must_be_there_are_put_in_and_items_that_need_others_refused():
    assert lists(ARMS="qdpo").arms == "fp,qdpo" and lists(ARMS="rtn, fp").arms == "rtn, fp"
    assert lists(ARMS="again,qdpo").items_of("arms") == ["fp", "again", "qdpo"]
    with pytest.raises(ValueError, match="again only together with qdpo"):
        lists(ARMS="again")


@pytest.mark.parametrize("given", [{"ARMS": "fp,qdpo,qdpo"}, {"SHARES": "0.5,1,0.50"}])
def test_an_item_stands_in_a_list_once(given):
    with pytest.raises(ValueError, match="twice"):
        lists(**given)
    assert lists(PHASES="3,3,3").items_of("phases") == ["3", "3", "3"]


def test_the_fingerprint_knows_the_files_that_settings_name(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text("a")
    first = lists(PROMPTS=str(file)).fingerprint()
    file.write_text("b")
    assert lists(PROMPTS=str(file)).fingerprint() != first
    file.write_text("a")
    assert lists(PROMPTS=str(file)).fingerprint() == first


@pytest.mark.parametrize("paper", presets.names())
@pytest.mark.parametrize("preset", presets.PRESETS)
def test_every_paper_says_what_a_complete_run_holds(paper, preset):
    needed = presets.needed(paper, presets.resolve(paper, {"PRESET": preset, "SEED": 0}))
    assert needed and len(set(needed)) == len(needed)


@pytest.mark.parametrize("paper, given, words", [
    ("qdpo", {"ARMS": "qdpo-round2"}, "only together with qdpo"), ("qdpo", {"ARMS": "kd,kd"}, "twice"),
    ("attribute_control", {"ARMS": "nado-sft"}, "only together with sft"),
    ("attribute_control", {"ARMS": "base,nado-base,nado-sft"}, "only together with sft"),
    ("mrpo", {"SECONDS": "mis-scored,complementary"}, "cannot begin with mis-scored"),
    ("mrpo", {"SCARCE": "plain,full", "ABUNDANT": "full"}, "measure twice"),
    ("lab", {"NOISES": "0.5,0.5"}, "twice"), ("sea", {"ARMS": "sea,sea"}, "twice"),
])  # fmt: skip
def test_arms_that_would_fail_after_all_training_are_refused_at_once(paper, given, words):
    with pytest.raises(ValueError, match=words):
        presets.resolve(paper, {"PRESET": "smoke", "SEED": 0, **given})


def test_qdpo_always_has_full_precision_and_round_to_nearest():
    assert presets.resolve("qdpo", {"PRESET": "smoke", "SEED": 0, "ARMS": "qdpo"}).arms == "fp,rtn,qdpo"


def test_weights_in_few_bits_want_adapters():
    with pytest.raises(ValueError, match="weights kept as nf4 cannot be trained themselves: set RANK"):
        presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0, "STORE": "nf4"})
    assert presets.resolve("mrpo", {"PRESET": "smoke", "SEED": 0, "STORE": "nf4", "RANK": 2}).store == "nf4"


def test_a_study_has_what_small_has_unless_it_says_so():
    one = dict(smoke=1, small=2, paper=3, published=None, source="s", help="h")
    assert Setting(**one).study == 2 and Setting(**one, study=5).study == 5
    with pytest.raises(ValueError, match="study lies in 1 .. 4, given 5"):
        Setting(**one, study=5, allowed=(1, 4))


@pytest.mark.parametrize("paper", notebooks.papers())
def test_a_study_measures_all_that_small_does_at_seeds_enough(paper):
    small, study = (presets.resolve(paper, {"PRESET": p, "SEED": 0}) for p in ("small", "study"))
    assert set(presets.needed(paper, small)) < set(presets.needed(paper, study))
    assert presets.seeds(paper, "small") == [0] and len(presets.seeds(paper, "study")) >= 3
    assert max(presets.seeds(paper, "study")) < 200


@pytest.mark.parametrize("paper", presets.names())
def test_any_gpu_may_be_named(paper):
    for device in ("cpu", "mps", "cuda", "cuda:1"):
        assert presets.resolve(paper, {"PRESET": "smoke", "SEED": 0, "DEVICE": device}).device == device
    for device in ("gpu", "cuda:", "cuda:x", "cpu:1"):
        with pytest.raises(ValueError, match=f"DEVICE takes cpu, cuda, cuda:1 .* or mps; given '{device}'"):
            presets.resolve(paper, {"PRESET": "smoke", "SEED": 0, "DEVICE": device})


@pytest.mark.parametrize("arm", ["sea-truth", "passive-twice"])
def test_controls_that_need_the_truth_are_no_methods_of_the_language_world(arm):
    with pytest.raises(ValueError, match=f"ARMS takes any of .*, given '{arm}'"):
        presets.resolve("sea", {"PRESET": "smoke", "SEED": 0, "ARMS": f"passive,{arm}"})

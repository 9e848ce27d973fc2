"""Where rows come from: files, folders, saved data sets, data sets of a hub and what is wrong with an address."""

import json

import datasets
import pytest

from lib import data
from lib.data import sources

PAIR = {"prompt": "q?", "chosen": "x", "rejected": "y"}


@pytest.mark.parametrize(
    "text, want",
    [
        ("some/set:train", ("some/set", None, None, "train")),
        ("some/set:part:test", ("some/set", None, "part", "test")),
        ("some/set@v1:part:train[:10%]", ("some/set", "v1", "part", "train[:10%]")),
        ("set:train[5:10]", ("set", None, None, "train[5:10]")),
    ],
)
def test_an_address_has_id_revision_config_and_split(monkeypatch, text, want):
    asked = {}

    def load_dataset(name, *config, split, revision=None, **how):
        asked["got"] = (name, revision, *(config or (None,)), split)
        return [PAIR]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert len(data.read(text, "pairs").rows) == 1 and asked["got"] == want


def test_a_configuration_that_is_a_folder_of_the_repository(monkeypatch):
    """HH-RLHF's parts are folders: `datasets` takes them as data_dir."""

    def load_dataset(name, config=None, *, split, data_dir=None):
        if config:
            raise ValueError(f"BuilderConfig '{config}' not found. Available: ['default']")
        assert data_dir == "helpful-base"
        return [PAIR]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert len(data.read("Anthropic/hh-rlhf:helpful-base:train", "pairs").rows) == 1


def test_lists_of_objects_are_read_in_both_ways_of_datasets(monkeypatch):
    row = {
        "info": {"post": "A tale."},
        "summaries": {"text": ["one", "two"], "policy": ["a", "b"]},
        "choice": 1,
    }
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: [row])
    (pair,) = data.read("openai/summarize_from_feedback:comparisons:train", "pairs").rows
    assert (pair.chosen, pair.rejected) == ("two", "one")


def test_folders_through_datasets_and_saved_ones(tmp_path):
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "train.jsonl").write_text(json.dumps(PAIR) + "\n" + json.dumps(PAIR | {"chosen": None}))
    got = data.read("some:train", "pairs", folder=tmp_path)
    assert len(got.rows) == 1 and got.dropped == [(2, "lacks chosen")] and got.source == "some:train"
    datasets.Dataset.from_list([PAIR]).save_to_disk(tmp_path / "saved")
    got = data.read("saved", "pairs", folder=tmp_path)
    assert len(got.rows) == 1 and len(got.digest) == 64 and got.unit == "row"
    changed = data.read(tmp_path / "some" / "train.jsonl", "pairs").digest
    assert changed != got.digest
    (tmp_path / "saved" / "state.json").unlink()
    with pytest.raises(ValueError, match="saved is no data set of save_to_disk"):
        data.read(tmp_path / "saved", "pairs")


@pytest.mark.parametrize(
    "source, error, message",
    [
        ("nowhere.jsonl", FileNotFoundError, "no file of rows at nowhere.jsonl; give a file, a folder, or a data set"),
        ("a:b:c:d", ValueError, "a data set is given as id"),
        ("no/such:train", ValueError, "the data set no/such:train cannot be read: .*; HF_HUB_OFFLINE is set, unset it"),
    ],
)
def test_no_such_source_is_told_in_one_sentence(source, error, message):
    with pytest.raises(error, match=message) as e:
        sources.find(source)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "failure, message",
    [
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x/y' is a gated dataset on the Hub."), "set HF_TOKEN"),
        (ValueError("Unknown split \"tain\". Should be one of ['train']."), "Unknown split .*'train'"),
        (ConnectionError("Couldn't reach the hub"), "cannot be read: Couldn't reach the hub"),
    ],
)
def test_a_hub_that_refuses_is_told_in_one_sentence(monkeypatch, failure, message):
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def load_dataset(*a, **k):
        raise failure

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(ValueError, match=message) as e:
        sources.find("x/y:train")
    assert "\n" not in str(e.value)


def test_empty_folders_and_data_sets(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="holds no file of .jsonl, .json"):
        sources.find(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *a, **k: [])
    with pytest.raises(ValueError, match="x/y:train holds no row"):
        sources.find("x/y:train")

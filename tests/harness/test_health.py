"""What `plumbline doctor` says of a machine."""

from importlib import metadata

from lib.harness import fits, health


def test_what_fits_is_told_by_what_there_is(monkeypatch):
    monkeypatch.setattr(fits, "there_is", lambda device: {"cpu": 4.0, "cuda": 0.0}[device])
    monkeypatch.setattr(fits, "known", lambda preset: {"mrpo": (30.0, 0.0), "qdpo": (43.0, 133.0)})
    said, bad = health.lines()
    assert not bad and any(line.startswith("device cpu, ") and "4 GB memory, 0 GB on the GPU" in line for line in said)
    assert said[-5:] == [
        "preset smoke: fits",
        "preset small: needs 6 GB",
        "preset study: needs 6 GB",
        "preset paper of mrpo: needs 30 GB on a GPU",
        "preset paper of qdpo: needs 43 GB on a GPU and 133 GB of memory",
    ]
    monkeypatch.setattr(fits, "there_is", lambda device: 200.0)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda k: "a card")
    assert health.lines()[0][-2:] == ["preset paper of mrpo: fits", "preset paper of qdpo: fits"]


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy>=1", "no-such-thing==2", 'ray; extra == "scale"'])
    said, bad = health.lines()
    assert bad and "FAIL  no-such-thing is missing: pip install -e .[dev]" in said
    assert said[0].startswith("OK    numpy ") and not any("ray" in line for line in said)

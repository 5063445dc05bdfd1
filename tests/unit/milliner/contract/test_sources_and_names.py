"""Sources and names: every form, what is refused, and lengths that Kubernetes takes."""

from __future__ import annotations

import pathlib
import re

import pytest

from milliner.contract import fields, names, sources


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("hf://Qwen/Qwen3-8B", sources.Source(sources.Scheme.HUGGING_FACE, "Qwen/Qwen3-8B")),
        ("hf://Qwen/Qwen3-8B@main", sources.Source(sources.Scheme.HUGGING_FACE, "Qwen/Qwen3-8B", "main")),
        ("pvc://models/a/b", sources.Source(sources.Scheme.CLAIM, "models/a/b")),
        ("https://host/path", sources.Source(sources.Scheme.HTTPS, "host/path")),
        ("http://host:8080/path", sources.Source(sources.Scheme.HTTP, "host:8080/path")),
        ("builtin://demo", sources.Source(sources.Scheme.BUILTIN, "demo")),
        ("file:///models/a", sources.Source(sources.Scheme.FILE, "/models/a")),
        ("models/a", sources.Source(sources.Scheme.FILE, "models/a")),
        ("../a", sources.Source(sources.Scheme.FILE, "../a")),
    ],
)
def test_forms(text: str, parsed: sources.Source) -> None:
    assert sources.parse(text) == parsed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("s3://x", "starts with s3://, which is unknown"),
        ("file://models", "file:///folder, with three slashes"),
        ("hf://Qwen", "names no repository"),
        ("pvc://", "names nothing after pvc://"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        sources.parse(text)


def test_a_relative_folder_is_looked_for_beside_the_file_then_in_the_working_directory(tmp_path: pathlib.Path) -> None:
    beside, working = tmp_path / "beside", tmp_path / "working"
    (working / "model").mkdir(parents=True)
    found = sources.local_folder(sources.parse("model"), relative_to=[beside, working], builtin={})
    assert found == working / "model"
    (beside / "model").mkdir(parents=True)
    found = sources.local_folder(sources.parse("model"), relative_to=[beside, working], builtin={})
    assert found == beside / "model"


def test_folders_that_are_not_there(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="no folder 'model'"):
        sources.local_folder(sources.parse("model"), relative_to=[tmp_path], builtin={})
    with pytest.raises(ValueError, match="needs a cluster"):
        sources.local_folder(sources.parse("hf://a/b"), relative_to=[tmp_path], builtin={})
    with pytest.raises(ValueError, match="builtin://other is unknown: use builtin://demo"):
        sources.local_folder(sources.parse("builtin://other"), relative_to=[], builtin={"demo": tmp_path})


@pytest.mark.parametrize("length", [1, 40, 55, 63])
def test_names_are_labels_of_at_most_63_characters_and_stay_apart(length: int) -> None:
    topology = "t" * length
    made = [names.cloud_name(topology), names.cloud_name(topology, 0), names.device_name(topology, "p" * 40, 12)]
    assert len(set(made)) == 3
    assert all(len(name) <= 63 and re.fullmatch(fields.DNS_LABEL, name) for name in made)


def test_short_names_are_plain_and_long_ones_keep_what_tells_them_apart() -> None:
    assert names.device_name("chat", "orin") == "chat-device-orin"
    assert names.cloud_name("a" * 63, 0) != names.cloud_name("a" * 63, 1)


def test_labels_select_by_role_and_pool_and_never_by_version() -> None:
    found = names.labels("chat", role=names.ROLE_DEVICE, pool="orin")
    assert found["milliner.dev/topology"] == "chat"
    assert found["milliner.dev/pool"] == "orin"
    assert not any("version" in label or "revision" in label for label in found)


@pytest.mark.parametrize(
    ("text", "commit", "pinned"),
    [
        ("hf://org/name", "c" * 40, f"hf://org/name@{'c' * 40}"),
        ("hf://org/name@main", "c" * 40, f"hf://org/name@{'c' * 40}"),
        ("hf://org/name@main", "", "hf://org/name@main"),
        ("https://huggingface.co/org/name/resolve/main", "c" * 40, "https://huggingface.co/org/name/resolve/main"),
        ("pvc://claim/path", "c" * 40, "pvc://claim/path"),
    ],
)
def test_a_revision_is_replaced_by_the_commit_that_it_stood_for(text: str, commit: str, pinned: str) -> None:
    assert sources.pinned(text, commit) == pinned

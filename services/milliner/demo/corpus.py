"""Collects the demo corpus: Python's standard library and public-domain text of Debian packages, split by document.

A document is one source file, one book of the Bible, or a run of dictionary entries. Identical documents are kept once.
About 2 % of each source is held out, whole documents only: those whose names have the lowest hashes, so that nobody
chooses and the same library gives the same split. Nothing here imports torch.
"""

from __future__ import annotations

import gzip
import hashlib
import pathlib
import shutil
import subprocess
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

HELD_OUT_SHARE = 0.02
"""Share of each source's bytes that is never trained on (arbitrary; about 600 kB of 36 MB)."""

DICTIONARY_DOCUMENT_BYTES = 24_000
"""Dictionary entries are joined into documents of at least this size: room for a bench prompt (arbitrary)."""

SKIPPED_PARTS = frozenset({"site-packages", "__pycache__", "encodings", "encoded_modules", "dist-packages"})
"""Folders that are not the library's own sources, or hold character tables in place of text."""

BIBLE_COMMAND = "bible"
"""Debian's bible-kjv: the King James Version, whose copyright has expired (its `copyright` file)."""

# fmt: off
BIBLE_BOOKS = (
    "Genesis", "Exodus", "Leviticus", "Numbers", "Deuteronomy", "Joshua", "Judges", "Ruth", "1Samuel", "2Samuel",
    "1Kings", "2Kings", "1Chronicles", "2Chronicles", "Ezra", "Nehemiah", "Esther", "Job", "Psalms", "Proverbs",
    "Ecclesiastes", "SongofSolomon", "Isaiah", "Jeremiah", "Lamentations", "Ezekiel", "Daniel", "Hosea", "Joel",
    "Amos", "Obadiah", "Jonah", "Micah", "Nahum", "Habakkuk", "Zephaniah", "Haggai", "Zechariah", "Malachi",
    "Matthew", "Mark", "Luke", "John", "Acts", "Romans", "1Corinthians", "2Corinthians", "Galatians", "Ephesians",
    "Philippians", "Colossians", "1Thessalonians", "2Thessalonians", "1Timothy", "2Timothy", "Titus", "Philemon",
    "Hebrews", "James", "1Peter", "2Peter", "1John", "2John", "3John", "Jude", "Revelation",
)
# fmt: on

DICTIONARIES = {"devil": "/usr/share/dictd/devil.dict.dz", "jargon": "/usr/share/dictd/jargon.dict.dz"}
"""Debian's dict-devil (The Devil's Dictionary, copyright expired) and dict-jargon (the Jargon File, public domain)."""


class CorpusError(Exception):
    """The corpus cannot be collected (expected: a package is not installed, a file is missing)."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document: `source/relative name`, and its text."""

    name: str
    text: str

    @property
    def source(self) -> str:
        return self.name.split("/", 1)[0]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Corpus:
    """The split corpus. `digest` is the SHA-256 over all names, digests and sides, in order."""

    train: tuple[Document, ...]
    held_out: tuple[Document, ...]

    @property
    def digest(self) -> str:
        total = hashlib.sha256()
        for side, documents in (("train", self.train), ("held_out", self.held_out)):
            for document in documents:
                total.update(f"{side} {document.digest} {document.name}\n".encode())
        return total.hexdigest()

    def summary(self) -> dict[str, dict[str, int]]:
        """Documents and bytes per source and side."""
        figures: dict[str, dict[str, int]] = {}
        for side, documents in (("train", self.train), ("held_out", self.held_out)):
            for document in documents:
                of_source = figures.setdefault(
                    document.source,
                    dict.fromkeys(("train_documents", "train_bytes", "held_out_documents", "held_out_bytes"), 0),
                )
                of_source[f"{side}_documents"] += 1
                of_source[f"{side}_bytes"] += len(document.text.encode())
        return figures


def standard_library() -> Iterator[Document]:
    """Python's own sources (PSF licence), tests included, as this interpreter's `stdlib` path holds them."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if SKIPPED_PARTS.intersection(relative.parts):
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            continue  # test data in other encodings
        if len(text) >= 200:
            yield Document(name=f"python/{relative.as_posix()}", text=text)


def bible() -> Iterator[Document]:
    """The King James Version, one document per book, through Debian's `bible` command."""
    command = shutil.which(BIBLE_COMMAND)
    if command is None:
        raise CorpusError("the `bible` command is not installed: apt-get install bible-kjv, or leave Debian's text out")
    for book, following in zip(BIBLE_BOOKS, (*BIBLE_BOOKS[1:], None), strict=True):
        last = f"{following}1:1" if following else "Revelation22:21"
        run = subprocess.run(
            [command, "-f", f"{book}1:1-{last}"], capture_output=True, text=True, check=True, timeout=60
        )
        verses = run.stdout.strip().splitlines()
        kept = verses[:-1] if following else verses
        yield Document(name=f"bible/{book}", text="\n".join(_verse(line) for line in kept) + "\n")


def _verse(line: str) -> str:
    """`Gen1:1 In the beginning` as `1:1 In the beginning`."""
    reference, _, words = line.partition(" ")
    digits = len(reference) - len(reference.lstrip("0123456789"))
    return f"{reference[digits:].lstrip('abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ')} {words.strip()}"


def dictionary(name: str, path: pathlib.Path) -> Iterator[Document]:
    """A dictd database's text, cut at blank lines into documents of `DICTIONARY_DOCUMENT_BYTES`."""
    if not path.is_file():
        raise CorpusError(f"{path} is missing: apt-get install dict-{name}, or leave Debian's text out")
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    held: list[str] = []
    size, number = 0, 0
    for paragraph in text.split("\n\n"):
        held.append(paragraph)
        size += len(paragraph.encode())
        if size >= DICTIONARY_DOCUMENT_BYTES:
            yield Document(name=f"{name}/{number:03d}", text="\n\n".join(held).strip() + "\n")
            held, size, number = [], 0, number + 1
    if size:
        yield Document(name=f"{name}/{number:03d}", text="\n\n".join(held).strip() + "\n")


def extra_texts(paths: Sequence[pathlib.Path]) -> Iterator[Document]:
    """Further plain-text files that the caller names; each is one document."""
    for path in paths:
        try:
            yield Document(name=f"extra/{path.name}", text=path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise CorpusError(f"--text {path}: cannot be read as UTF-8 text: {error}") from error


def split(documents: Iterable[Document], *, share: float = HELD_OUT_SHARE) -> Corpus:
    """Deduplicates, then holds out of each source the documents whose names hash lowest, up to `share` of its bytes.

    A source of one document is trained on whole.
    """
    unique: dict[str, Document] = {}
    for document in documents:
        unique.setdefault(document.digest, document)
    by_source: dict[str, list[Document]] = {}
    for document in unique.values():
        by_source.setdefault(document.source, []).append(document)
    train: list[Document] = []
    held_out: list[Document] = []
    for members in by_source.values():
        ranked = sorted(members, key=lambda document: hashlib.sha256(document.name.encode()).hexdigest())
        wanted = share * sum(len(document.text) for document in ranked)
        taken, count = 0, 0
        while taken < wanted and count < len(ranked) - 1:
            taken += len(ranked[count].text)
            count += 1
        held_out += ranked[:count]
        train += ranked[count:]
    return Corpus(
        train=tuple(sorted(train, key=lambda document: document.name)),
        held_out=tuple(sorted(held_out, key=lambda document: document.name)),
    )


def collect(*, debian: bool = True, extra: Sequence[pathlib.Path] = ()) -> Corpus:
    """The whole corpus, split. Raises `CorpusError` naming the package or file that is missing."""
    documents = list(standard_library())
    if debian:
        documents += bible()
        for name, path in DICTIONARIES.items():
            documents += dictionary(name, pathlib.Path(path))
    documents += extra_texts(extra)
    return split(documents)

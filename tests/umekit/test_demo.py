"""The demo: files that can be read back, queries with one right answer, and a contact sheet without links."""

from __future__ import annotations

import json
import runpy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("sklearn")
pytest.importorskip("av")
pytest.importorskip("pypdfium2")
pytest.importorskip("faiss")

import umekit
from umekit.cli.main import main
from umekit.demo.contact_sheet import contact_sheet
from umekit.demo.gallery import Gallery, write_gallery
from umekit.demo.mp4 import mp4_bytes
from umekit.demo.queries import Query, Result, make_queries, rerank
from umekit.encoding.cascade_folder import Fusion
from umekit.encoding.inputs.files import file_items
from umekit.encoding.reranker import Reranked
from umekit.evaluation.digit_world import TASKS
from umekit.processing.documents import load_document
from umekit.processing.limits import MediaLimits
from umekit.processing.video import Sampling, load_video

FakeEncoder = runpy.run_path(str(Path(__file__).parents[1] / "encoding" / "fake_encoder.py"))["FakeEncoder"]


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    return write_gallery(tmp_path_factory.mktemp("demo") / "gallery")


@pytest.fixture(scope="module")
def queries(gallery: Gallery) -> list[Query]:
    return make_queries(gallery, gallery.root.parent / "queries")


def contents(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_every_id_is_a_row_of_a_file(gallery: Gallery) -> None:
    known = {**gallery.scenes, **gallery.clips, **gallery.pages, **gallery.scene_notes, **gallery.clip_notes}
    files = sorted(path for path in gallery.root.rglob("*") if path.is_file())
    rows = [
        file.relative_to(gallery.root).as_posix() + suffix
        for file in files
        for suffix, _, _ in file_items(file)
    ]
    assert sorted(rows) == sorted(known)
    assert [len(part) for part in (gallery.scenes, gallery.clips, gallery.pages)] == [60, 12, 8]


def test_the_same_seed_writes_the_same_bytes_and_touches_nothing(gallery: Gallery, tmp_path: Path) -> None:
    assert contents(write_gallery(tmp_path).root) == contents(gallery.root)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    write_gallery(tmp_path)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert contents(write_gallery(tmp_path / "b", seed=1).root) != contents(gallery.root)


def test_pictures_are_exact_and_lossy_files_stay_legible(gallery: Gallery) -> None:
    name, scene = next(iter(gallery.scenes.items()))
    with Image.open(gallery.root / name) as image:
        np.testing.assert_array_equal(np.asarray(image), scene.pixels(gallery.glyphs))
    for name, clip in gallery.clips.items():
        frames = load_video(str(gallery.root / name), Sampling(), MediaLimits()).images
        wanted = clip.render(gallery.glyphs)
        assert len(frames) == len(wanted) == 4
        for one, other in zip(frames, wanted, strict=True):
            assert one.size == (84, 84)
            assert np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() < 4
    for name, page in gallery.pages.items():
        wanted_page = page.render(gallery.glyphs)
        number = int(name.split("#page=")[1])
        (image,) = load_document(
            str(gallery.file(name)), number, wanted_page.width * wanted_page.height, MediaLimits()
        )
        assert image.size == wanted_page.size
        assert np.abs(np.asarray(image, float) - np.asarray(wanted_page, float)).mean() < 6


def test_queries_have_one_right_answer_of_the_wanted_kind(gallery: Gallery, queries: list[Query]) -> None:
    families = {query.family for query in queries}
    assert len(families) == 8
    kinds = {"image": gallery.scenes, "video": gallery.clips, "document": gallery.pages}
    for query in queries:
        pool: Any = kinds.get(query.kind, {**gallery.scene_notes, **gallery.clip_notes})
        assert query.right in pool
        assert query.item["instruction"]
        assert query.file is None or query.file.is_file()
    for query in queries:
        if query.family == "text -> image":
            same = [name for name, scene in gallery.scenes.items() if scene.caption == query.text]
            assert same == [query.right]
        if query.family == "text -> document":
            entries = [part.strip() for part in query.text.split(" with ")[1].split(" and ")]
            answers = [
                name
                for name, page in gallery.pages.items()
                if query.text.startswith(page.kind) and set(entries) <= {entry.text for entry in page.entries}
            ]
            assert answers == [query.right]


def test_queries_show_other_handwriting(gallery: Gallery, queries: list[Query]) -> None:
    for query in queries:
        if query.family == "image -> image":
            assert query.file is not None
            assert query.file.read_bytes() != (gallery.root / query.right).read_bytes()


def test_film_falls_back_to_another_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = [Image.new("RGB", (84, 84), (n * 60, 20, 20)) for n in range(4)]
    monkeypatch.setattr(
        "umekit.demo.mp4.CODECS", (("no_such_codec", {}), ("mpeg4", {"qmin": "1", "qmax": "2"}))
    )
    assert len(load_video(mp4_bytes(frames), Sampling(), MediaLimits()).images) == 4
    monkeypatch.setattr("umekit.demo.mp4.CODECS", (("no_such_codec", {}),))
    with pytest.raises(RuntimeError, match="no_such_codec"):
        mp4_bytes(frames)


class Checker(HTMLParser):
    """Every tag is closed in order, and nothing is loaded from elsewhere."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images = 0
        self.right = 0
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        assert tag not in ("script", "link", "iframe")
        named = dict(attrs)
        assert "href" not in named
        if tag == "img":
            self.images += 1
            assert (named["src"] or "").startswith("data:image/png;base64,")
            assert named["alt"]
        self.right += named.get("class") == "right"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker


def test_the_sheet_is_self_contained_and_escapes(tmp_path: Path) -> None:
    (tmp_path / "<b>.txt").write_text("</blockquote><script>alert(1)</script>")
    Image.new("RGB", (84, 84)).save(tmp_path / "a&b.png")
    hits = (("<b>.txt", 0.5), ("a&b.png", 0.25))
    found = Result(Query("x < y", {"text": "<i>", "instruction": "&"}, "text", "<b>.txt", "<i>"), hits)
    missed = Result(Query("x < y", {"text": "t"}, "text", "gone.txt", "t"), hits)
    checker = checked(contact_sheet([found, missed], tmp_path, "a <title>", "1 < 2"))
    assert checker.right == 1
    assert checker.images == 2
    assert "alert(1)" in checker.text
    assert "is not in the index" in checker.text


def test_ranks() -> None:
    query = Query("f", {}, "text", "b")
    assert Result(query, (("a", 1.0), ("b", 0.5))).rank == 2
    assert Result(query, (("a", 1.0),)).rank == 0


def test_the_verb(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = FakeEncoder()
    monkeypatch.setitem(vars(umekit), "load", lambda *_, **__: encoder)
    assert main(["demo", "--quiet"]) == 0
    out = capsys.readouterr().out
    for family in ("text -> image", "video -> text", "document -> document", "image + text -> image"):
        assert f"\n{family}: " in out
    assert "right in first place: " in out
    checker = checked((tmp_path / "umekit-demo" / "contact-sheet.html").read_text())
    assert checker.images > 100
    encoded = len(encoder.seen)
    assert main(["demo", "--quiet", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (
        len(encoder.seen) - encoded == facts["queries"] == len(facts["results"])
    )  # the gallery was not encoded again
    monkeypatch.setitem(vars(umekit), "load", lambda *_, **__: FakeEncoder(model="0" * 64))
    assert main(["demo", "--quiet", "--json"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["umekit-demo"]


def test_out_must_be_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["demo", "--out", str(tmp_path / "file")]) == 2
    assert "not a folder" in capsys.readouterr().err


def test_a_second_look_moves_the_first_files_by_the_share_of_their_task() -> None:
    class Reader:
        def rerank_many(self, queries: Any, lists: Any, **_: Any) -> list[Reranked]:
            assert lists == [["A", "B"], ["A", "B"]]
            return [Reranked(np.float32([0.0, 1.0])) for _ in queries]

    hits = (("a", 0.9), ("b", 0.7), ("c", 0.5))
    results = [
        Result(Query("f", {"text": "x"}, "image", "b", task=task), hits, "thought")
        for task in ("far", "near")
    ]
    found = rerank(results, Reader(), Fusion(0.5, {"near": 1.0}, depth=2), str.upper)
    assert [name for name, _ in found[0].hits] == ["b", "a", "c"]
    assert [score for _, score in found[0].hits] == pytest.approx([0.85, 0.45, 0.5])
    assert [name for name, _ in found[1].hits] == ["a", "b", "c"]
    assert [one.thought for one in found] == ["thought", "thought"]
    assert [one.rank for one in found] == [1, 2]


def test_every_query_names_its_task(queries: list[Query]) -> None:
    assert {query.task for query in queries} <= set(TASKS)

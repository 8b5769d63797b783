"""Where data come from: exact names, frames first, archives that may be hostile, and the Hub."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layouts
import numpy as np
import pytest

from umekit.encoding.inputs import unpacking
from umekit.encoding.inputs.columns import OutsideRootError
from umekit.encoding.inputs.json_records import FormatError
from umekit.encoding.inputs.unpacking import archives_in, unpacked
from umekit.evaluation.benchmarks import HubData, LocalData, load_benchmark
from umekit.evaluation.benchmarks import hub_data as module
from umekit.evaluation.benchmarks.media import BenchmarkDataError, Media, chosen_frames
from umekit.evaluation.benchmarks.readers import Choices, read_problem
from umekit.processing.limits import MediaError, MediaLimits

MMEB = load_benchmark("mmeb-v2")


def _task(name: str) -> Any:
    return MMEB.chosen([name])[0]


def test_frames_are_chosen_as_the_official_code_does(tmp_path: Path) -> None:
    assert chosen_frames(list(range(5)), 8) == list(range(5))
    assert chosen_frames(list(range(64)), 8) == [0, 9, 18, 27, 36, 45, 54, 63]
    layouts.frames(tmp_path / "a", 0, count=12)
    names = [Path(one).name for one in Media(tmp_path).video("a", 8)]
    assert names == [f"frame_{n}.jpg" for n in (1, 2, 4, 5, 7, 8, 10, 12)]  # 10 after 9, not after 1


def test_media_are_found_by_their_exact_names(tmp_path: Path) -> None:
    """Trap: matching by an ending fetched 209741 for 9741 (evalscope#1752)."""
    layouts.frames(tmp_path / "frames/209741", 0)
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/19741.mp4").write_bytes(b"x")
    media = Media(tmp_path / "frames", tmp_path / "clips")
    with pytest.raises(BenchmarkDataError, match="'9741'"):
        media.video("9741", 8)
    (tmp_path / "clips/9741.mp4").write_bytes(b"x")
    assert media.video("9741", 8) == str(tmp_path / "clips/9741.mp4")
    layouts.frames(tmp_path / "frames/9741", 0)
    assert isinstance(media.video("9741", 8), list)  # frames come first
    for name in ("../frames/209741", "/etc/passwd"):
        with pytest.raises(OutsideRootError):
            media.picture(name)


def test_every_reader_says_what_is_shown_to_whom(mmeb: Any, mmeb_v1: Any, mbeir: Any, zero_shot: Any) -> None:
    """Queries, their pools and gains, item by item: texts as the official code assembles them, media, instructions."""
    cases = [("mmeb-v2", mmeb[0], name, "", case) for name, case in mmeb[1].items()]
    cases += [("mmeb-v1", mmeb_v1[0], name, "", case) for name, case in mmeb_v1[1].items()]
    cases += [
        ("m-beir", mbeir[0], name, kind, kinds[kind]) for name, kinds in mbeir[1].items() for kind in kinds
    ]
    cases += [("zero-shot", zero_shot[0], name, "", case) for name, case in zero_shot[1].items()]
    for benchmark, root, name, kind, case in cases:
        whole = load_benchmark(benchmark)
        problem = read_problem(
            whole, whole.chosen([name])[0], LocalData(root), Choices(kind or "local", "first")
        )
        assert [entry.item(whole.text) for entry in problem.queries] == case.queries, name
        every = np.arange(len(problem.candidates))
        for number, (pool, gains) in enumerate(zip(case.pools, case.gains, strict=True)):
            places = every if problem.pools is None else problem.pools[number]
            shown = [problem.candidates[place].item(whole.text) for place in places]
            right = {
                shown.index(problem.candidates[at].item(whole.text)): g
                for at, g in problem.relevant[number].items()
            }
            # a pool's order decides the official order of ties alone: of image tasks the gold is the first there
            assert sorted(map(repr, shown)) == sorted(map(repr, pool)), name
            assert right == {shown.index(pool[at]): gain for at, gain in gains.items()}, name
            assert problem.task.reader not in ("mmeb-image", "mmeb-v1") or list(right) == [0], name


def test_pages_lie_where_the_official_code_puts_them(tmp_path: Path) -> None:
    """Of rows without pictures: ``<corpus-id>.png``, of VisRAG the id itself, which is a file name, cut at 50."""
    from hashlib import md5

    long = f"{'a' * 60}-page.7.png"
    names = {
        "ViDoRe_esg_reports_v2_multilingual": (
            "esg_reports_v2",
            "p.1",
            "esg_reports_v2_multilingual/p.1.png",
        ),
        "VisRAG_ChartQA": (
            "VisRAG-Ret-Test-ChartQA",
            long,
            f"VisRAG_ChartQA/{'a' * 50}_{md5(long.encode()).hexdigest()[:8]}.png",
        ),
    }
    for task, (folder, page, path) in names.items():
        rows = tmp_path / f"visdoc-tasks/data/{folder}"
        layouts.lines(rows / "corpus.jsonl", [{"corpus-id": page}])
        layouts.lines(rows / "queries.jsonl", [{"query-id": "q", "query": "which?"}])
        layouts.lines(rows / "qrels.jsonl", [{"query-id": "q", "corpus-id": page, "score": 1}])
        wanted = layouts.picture(tmp_path / f"visdoc-tasks/{path}", 0)
        problem = read_problem(MMEB, _task(task), LocalData(tmp_path))
        assert [one.media["image"] for one in problem.candidates] == [wanted]


def _tar(path: Path, names: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_archives_of_media_are_unpacked_once(mmeb: Any, tmp_path: Path) -> None:
    """The published form: frames in video_cls.tar.gz, pictures in mmeb_v1.tar.gz; parts read as one."""
    root, _ = mmeb
    wanted = {name: read_problem(MMEB, _task(name), LocalData(root)) for name in ("HMDB51", "HatefulMemes")}
    packed = tmp_path / "packed"
    for name in ("image-query/HatefulMemes.jsonl", "video-tasks/data/hmdb51.jsonl"):
        (packed / name).parent.mkdir(parents=True, exist_ok=True)
        (packed / name).write_bytes((root / name).read_bytes())
    for folder, inside, archive in (
        ("image-tasks/MMEB", "MMEB", "image-tasks/mmeb_v1.tar.gz"),
        ("video-tasks/frames/video_cls", "video_cls", "video-tasks/frames/video_cls.tar.gz"),
    ):
        files = {
            f"{inside}/{path.relative_to(root / folder)}": path.read_bytes()
            for path in (root / folder).rglob("*")
            if path.is_file()
        }
        (packed / archive).parent.mkdir(parents=True, exist_ok=True)
        _tar(packed / archive, files)
    whole = packed / "video-tasks/frames/video_cls.tar.gz"
    data = whole.read_bytes()
    for number, start in enumerate(range(0, len(data), len(data) // 3 + 1)):
        whole.with_name(f"{whole.name}.part{number}").write_bytes(data[start : start + len(data) // 3 + 1])
    whole.unlink()
    for name, problem in wanted.items():
        found = read_problem(MMEB, _task(name), LocalData(packed, tmp_path / "cache"))
        assert len(found.queries) == len(problem.queries)
        for mine, theirs in zip(found.queries, problem.queries, strict=True):
            left, right = (next(iter(one.media.values())) for one in (mine, theirs))
            pairs = zip(
                [left] if isinstance(left, str) else left,
                [right] if isinstance(right, str) else right,
                strict=True,
            )
            assert all(Path(a).read_bytes() == Path(b).read_bytes() for a, b in pairs)
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("name", ["../out.png", "/tmp/umekit-out.png", "a/../../out.png"])
def test_no_member_leads_out(name: str, tmp_path: Path) -> None:
    archive = _tar(tmp_path / "a.tar.gz", {name: b"x"})
    with pytest.raises((MediaError, OutsideRootError)):
        unpacked([archive], tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert not (tmp_path / "out.png").exists()


def test_links_bombs_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tarfile.TarInfo("a")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with tarfile.open(tmp_path / "l.tar", "w") as archive:
        archive.addfile(link)
    with pytest.raises(MediaError, match="link or special"):
        unpacked([tmp_path / "l.tar"], tmp_path / "cache")
    monkeypatch.setattr(unpacking, "SPARE", 0)
    bomb = _tar(tmp_path / "b.tar.gz", {"zeros": bytes(1 << 22)})
    with pytest.raises(MediaError, match="times its size"):
        unpacked([bomb], tmp_path / "cache")
    with pytest.raises(MediaError, match="the limit is 100"):
        unpacked([bomb], tmp_path / "cache", MediaLimits(file_bytes=100))
    with tarfile.open(tmp_path / "t.tar", "w") as archive:
        for content in (b"a", b"b"):
            member = tarfile.TarInfo("x/y.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(MediaError, match="is there twice"):
        unpacked([tmp_path / "t.tar"], tmp_path / "cache")
    (tmp_path / "d.tar.gz").write_bytes(bomb.read_bytes()[:100])
    with pytest.raises(MediaError):
        unpacked([tmp_path / "d.tar.gz"], tmp_path / "cache")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a/b.txt", "x" * 10)
    monkeypatch.undo()
    found = unpacked(archives_in(tmp_path)["z.zip"], tmp_path / "cache")
    assert (found / "a/b.txt").read_text() == "x" * 10


def _rows(task: str, change: Callable[[dict[str, Any]], None], root: Path, to: Path) -> LocalData:
    import json

    shutil.copytree(root, to)
    path = to / f"image-query/{task}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[1])
    layouts.lines(path, rows)
    return LocalData(to)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda row: row.pop("tgt_text"), "HatefulMemes.jsonl, HatefulMemes.jsonl:2: 'tgt_text' is missing"),
        (lambda row: row.update(qry_img_path="none.png"), "no picture 'none.png'"),
        (lambda row: row.update(qry_img_path="../../x.png"), "below its own folder"),
    ],
)
def test_a_row_that_is_wrong_is_named(change: Any, error: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    layouts.image_task(root, "HatefulMemes", "i2t")
    data = _rows("HatefulMemes", change, root, tmp_path / "copy")
    with pytest.raises((FormatError, FileNotFoundError, OutsideRootError), match=error):
        read_problem(MMEB, _task("HatefulMemes"), data)


def test_pictures_of_m_beir_may_lie_in_their_archive(mbeir: Any, tmp_path: Path) -> None:
    """The published form: ``mbeir_images.tar.gz`` in parts, at the top."""
    root, cases = mbeir
    packed = tmp_path / "packed"
    shutil.copytree(root, packed, ignore=shutil.ignore_patterns("mbeir_images"))
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in (root / "mbeir_images").rglob("*.jpg")
    }
    data = _tar(tmp_path / "whole.tar.gz", files).read_bytes()
    for number, part in enumerate((data[: len(data) // 2], data[len(data) // 2 :])):
        (packed / f"mbeir_images.tar.gz.part-0{number}").write_bytes(part)
    benchmark = load_benchmark("m-beir")
    task = benchmark.chosen(["nights_task4"])[0]
    problem = read_problem(benchmark, task, LocalData(packed, tmp_path / "cache"))
    wanted = [item["image"] for item in cases["nights_task4"]["local"].queries]
    found = [str(entry.media["image"]) for entry in problem.queries]
    assert [Path(one).read_bytes() for one in found] == [Path(one).read_bytes() for one in wanted]
    assert all(str(tmp_path / "cache") in one for one in found)


def _revision(root: Path, benchmark: str, task: str, pool: str = "local") -> str:
    whole, data = load_benchmark(benchmark), LocalData(root)
    one = whole.chosen([task])[0]
    return data.revision(one, read_problem(whole, one, data, Choices(pool, "first")).files)


@pytest.mark.parametrize(
    ("benchmark", "task", "pool", "file"),
    [
        ("m-beir", "nights_task4", "local", "query/test/mbeir_nights_task4_test.jsonl"),
        ("m-beir", "nights_task4", "local", "cand_pool/local/mbeir_nights_task4_cand_pool.jsonl"),
        ("m-beir", "nights_task4", "local", "qrels/test/mbeir_nights_task4_test_qrels.txt"),
        ("m-beir", "nights_task4", "local", "instructions/query_instructions.tsv"),
        ("m-beir", "nights_task4", "global", "cand_pool/global/mbeir_union_test_cand_pool.jsonl"),
        ("zero-shot", "Flickr30k_t2i", "", "flickr/texts.json"),
        ("zero-shot", "ShareGPT4V_t2i", "", "sharegpt4v/captions.json"),
        ("zero-shot", "Urban1K_i2t", "", "Urban1k/caption/2.txt"),
        ("zero-shot", "CIRCO", "", "circo/annotations/val.json"),
        ("zero-shot", "CIRCO", "", "circo/annotations/image_info_unlabeled2017.json"),
        ("zero-shot", "MSVD_t2v", "", "msvd/test.jsonl"),
    ],
)
def test_a_revision_is_of_all_that_is_read(
    benchmark: str, task: str, pool: str, file: str, mbeir: Any, zero_shot: Any, tmp_path: Path
) -> None:
    """Of queries, candidates, what is relevant and the instructions: none of them changes without a trace."""
    root = (mbeir if benchmark == "m-beir" else zero_shot)[0]
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    before = _revision(copy, benchmark, task, pool)
    assert before == _revision(root, benchmark, task, pool)
    (copy / file).write_bytes((copy / file).read_bytes() + b"\n")
    assert _revision(copy, benchmark, task, pool) != before


@pytest.mark.parametrize("folder", ["VLM2Vec/HMDB51", "HMDB51", "HMDB51/data"])
def test_rows_as_their_repository_has_them(folder: str, mmeb: Any, tmp_path: Path) -> None:
    from datasets import Dataset

    root, _ = mmeb
    rows = root / "video-tasks/data/hmdb51.jsonl"
    (tmp_path / folder).mkdir(parents=True)
    for split in ("test", "train"):
        table = Dataset.from_json(str(rows), cache_dir=str(tmp_path / "cache"))
        table = table if split == "test" else table.select([0])
        table.to_parquet(str(tmp_path / folder / f"{split}-00000-of-00001.parquet"))
    found = [dict(row) for _, row in LocalData(tmp_path).rows(_task("HMDB51"))]
    assert found == [dict(row) for _, row in LocalData(root).rows(_task("HMDB51"))]


def test_rows_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkDataError, match="image-query/CIRR"):
        read_problem(MMEB, _task("CIRR"), LocalData(tmp_path))


def test_the_hub_is_asked_for_a_commit_and_streams(
    mmeb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the Hub: rows by the streaming loader, media by a snapshot, both of one commit."""
    import json

    root, _ = mmeb
    asked: list[tuple[Any, ...]] = []

    def rows(repo: str, config: str | None, split: str, commit: str) -> list[Any]:
        asked.append((repo, config, split, commit))
        return [json.loads(line) for line in (root / f"image-query/{config}.jsonl").read_text().splitlines()]

    def snapshot(repo: str, patterns: Any, commit: str) -> Path:
        asked.append((repo, tuple(patterns), commit))
        return root

    monkeypatch.setattr(module, "commit_of", lambda repo, revision: f"{repo}@{revision}")
    monkeypatch.setattr(module, "stream_rows", rows)
    monkeypatch.setattr(module, "snapshot", snapshot)
    data = HubData(MMEB, tmp_path, "main")
    task = _task("CIRR")
    found = read_problem(MMEB, task, data)
    assert [entry.words for entry in found.queries] == [
        entry.words for entry in read_problem(MMEB, task, LocalData(root)).queries
    ]
    assert ("ziyjiang/MMEB_Test_Instruct", "CIRR", "test", "ziyjiang/MMEB_Test_Instruct@main") in asked
    [media] = [one for one in asked if one[0] == "TIGER-Lab/MMEB-V2"]
    assert "image-tasks/MMEB/*" in media[1]
    assert "image-tasks/*.tar*" in media[1]
    assert data.revision(task) == "ziyjiang/MMEB_Test_Instruct@main"
    both = "ziyjiang/MMEB_Test_Instruct@main, media TIGER-Lab/MMEB-V2@main"
    assert data.revision(task, (), ["a picture"]) == both


def test_streamed_pictures_stay_bytes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    path = Path(layouts.picture(tmp_path / "a.png", 0))
    features = datasets.Features({"corpus-id": datasets.Value("string"), "image": datasets.Image()})
    table = datasets.Dataset.from_dict({"corpus-id": ["p"], "image": [str(path)]}, features=features)
    calls: dict[str, Any] = {}

    def load(repo: str, config: str, **options: Any) -> Any:
        calls.update(options)
        return table.to_iterable_dataset()

    monkeypatch.setattr(datasets, "load_dataset", load)
    [row] = module.stream_rows("vidore/x", "corpus", "test", "abc")
    assert set(row["image"]) == {"bytes", "path"}
    assert (calls["streaming"], calls["revision"]) == (True, "abc")


def test_a_folder_may_be_named_from_here_or_by_a_link(
    mmeb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = mmeb
    task = MMEB.chosen(["CIRR"])[0]
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(root.parent)
    named = (LocalData(one) for one in (root, Path(root.name), tmp_path / "link"))
    assert len({one.revision(task) for one in named}) == 1


def test_a_revision_is_of_media_and_of_the_middle_of_a_file(tmp_path: Path) -> None:
    layouts.MMEB_V2["CIRR"](tmp_path)
    task, data = MMEB.chosen(["CIRR"])[0], LocalData(tmp_path)

    def revision() -> str:
        return data.revision(task, (), read_problem(MMEB, task, data).media_files())

    found = [revision()]
    picture = Path(read_problem(MMEB, task, data).media_files()[0])
    layouts.picture(picture, 4321)
    picture.write_bytes(picture.read_bytes() + b"0")
    found.append(revision())
    rows = tmp_path / "image-query" / "CIRR.jsonl"
    blank = " " * 100_000
    for middle in ("1", "2"):
        lines = rows.read_text().splitlines()
        first = {**json.loads(lines[0]), "aside": f"{blank}{middle}{blank}"}
        rows.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
        found.append(revision())
    assert len(set(found)) == 4


def test_rows_of_another_split_are_not_taken_instead(tmp_path: Path) -> None:
    """A repository of which only a part is there."""
    from umekit.evaluation.benchmarks.media import BenchmarkDataError

    layouts.MMEB_V2["ViDoRe_shiftproject"](tmp_path)
    task = MMEB.chosen(["ViDoRe_shiftproject"])[0]
    [table] = (tmp_path / "visdoc-tasks").rglob("queries/test-*.parquet")
    table = table.rename(table.with_name("data-00000-of-00001.parquet"))
    assert len(LocalData(tmp_path).rows(task, "queries")) == 3
    table.rename(table.with_name("train-00000-of-00001.parquet"))
    with pytest.raises(BenchmarkDataError, match="no rows of queries"):
        LocalData(tmp_path).rows(task, "queries")


def test_a_count_that_is_no_number_is_named(tmp_path: Path) -> None:
    from datasets import Dataset

    layouts.MMEB_V2["ViDoRe_shiftproject"](tmp_path)
    [table] = (tmp_path / "visdoc-tasks").rglob("qrels/*.parquet")
    row = {"query-id": "q0", "corpus-id": "p0", "score": float("inf")}
    Dataset.from_list([row]).to_parquet(str(table))
    with pytest.raises(FormatError, match="'score' is inf"):
        read_problem(MMEB, MMEB.chosen(["ViDoRe_shiftproject"])[0], LocalData(tmp_path))

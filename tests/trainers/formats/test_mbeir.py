"""M-BEIR: pool by did, instructions by modality, choices that depend on seed and query alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from umekit.trainers.formats import FormatError, FormatRows, format_string, read_mbeir, read_rows
from umekit.trainers.mining import mine
from umekit.trainers.recipes.sources import eval_rows
from umekit.trainers.sampling import Source

QUERIES = [
    {
        "qid": "9:1",
        "query_txt": "two cats on a sofa",
        "query_img_path": None,
        "query_modality": "text",
        "query_src_content": None,
        "pos_cand_list": ["9:10", "9:11", "9:12"],
        "neg_cand_list": ["9:13", "9:10"],
    },
    {
        "qid": "7:2",
        "query_txt": "is shorter",
        "query_img_path": "mbeir_images/q.jpg",
        "query_modality": "image,text",
        "pos_cand_list": ["9:10"],
        "neg_cand_list": [],
    },
    {
        "qid": "4:3",
        "query_txt": None,
        "query_img_path": "q.jpg",
        "query_modality": "image",
        "pos_cand_list": ["4:9"],
    },
    {"qid": "4:4", "query_txt": "x", "query_modality": "text", "pos_cand_list": ["4:0"], "neg_cand_list": []},
    {"qid": "4:5", "query_txt": "x", "query_modality": "text", "pos_cand_list": []},
]
POOL = [
    *(
        {"did": f"9:{n}", "txt": None, "img_path": f"mbeir_images/{n}.jpg", "modality": "image"}
        for n in (10, 11, 12)
    ),
    {"did": "9:13", "txt": "a dog", "img_path": None, "modality": "text"},
    {"did": "4:9", "txt": "", "img_path": "", "modality": "image"},
]
PROMPTS = "\n".join(
    "\t".join(line)
    for line in [
        ["query_modality", "cand_modality", "dataset_name", "dataset_id", "p1", "p2", "p3", "p4"],
        ["text", "image", "MSCOCO", "9", "Find me an image.", "show the scene", "Which picture?", ""],
        [
            "image,text",
            "image",
            "FashionIQ",
            "7",
            "Find a similar one.",
            "Alter it.",
            "Edit it.",
            "Change it.",
        ],
        ["image", "image", "NIGHTS", "4", "Find a look-alike."],
    ]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, records in (("q", QUERIES), ("pool", POOL)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    (tmp_path / "prompts.tsv").write_text(PROMPTS)
    return tmp_path


def read(folder: Path, **options: Any) -> FormatRows:
    settings = {"media": folder, "instructions": folder / "prompts.tsv", **options}
    return read_mbeir(folder / "q.jsonl", folder / "pool.jsonl", **settings)


def test_a_row(folder: Path) -> None:
    row = read(folder, prompt="first", positive="first", negatives=1)[0]
    assert row == {
        "query": {"instruction": "Find me an image.", "text": "two cats on a sofa."},
        "positive": {"image": str(folder / "mbeir_images" / "10.jpg")},
        "negatives": [{"text": "A dog."}],
        "positive_id": "9:10",
        "positive_ids": ["9:10", "9:11", "9:12"],
        "query_id": "9:1",
        "dataset": "mscoco_task0",
    }
    edited = read(folder, prompt="first")[1]
    assert edited["query"]["image"] == str(folder / "mbeir_images" / "q.jpg")
    assert edited["dataset"] == "fashioniq_task7"


def test_no_ground_truth_is_a_negative(folder: Path) -> None:
    assert read(folder, negatives=2)[0]["negatives"] == [{"text": "A dog."}]  # 9:10 is a positive, too


class StubEncoder:
    """Every item has the same vector, so that nothing but what is known keeps a candidate away."""

    dim = 2

    def fingerprint(self) -> dict[str, Any]:
        return {"dim": 2}

    def encode(self, items: Any, **_: Any) -> Any:
        return SimpleNamespace(embeddings=np.ones((len(items), 2), np.float32), errors=[])


@pytest.mark.parametrize("as_recipe", [False, True])
def test_mining_takes_no_ground_truth_for_a_negative(tmp_path: Path, as_recipe: bool) -> None:
    truths = {"9:0": ["9:10", "9:11", "9:12"], "9:1": ["9:11"], "9:2": ["9:12"], "9:3": ["9:13", "9:15"]}
    queries = [
        {"qid": qid, "query_txt": f"query {qid}", "query_modality": "text", "pos_cand_list": dids}
        for qid, dids in truths.items()
    ]
    texts = {f"9:{n}": f"candidate {n}" for n in range(10, 15)} | {"9:15": "candidate 14"}
    pool = [{"did": did, "txt": text, "modality": "text"} for did, text in texts.items()]
    for name, records in (("q", queries), ("pool", pool)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    rows: Any = read_mbeir(tmp_path / "q.jsonl", tmp_path / "pool.jsonl", media=tmp_path, positive="first")
    prefix, candidates = "", [{"id": did, "text": format_string(text)} for did, text in texts.items()]
    if as_recipe:  # the positives are the pool, and ids are those of the source
        rows, prefix, candidates = eval_rows([Source("beir", rows)]), "beir\0", None
    report = mine(StubEncoder(), rows, candidates, out=tmp_path / "out", k=6, depth=6, max_similarity=None)
    mined = [json.loads(line) for line in Path(report.file).read_text().splitlines()]
    for row, (qid, dids) in zip(mined, truths.items(), strict=True):
        assert row["query_id"] == qid
        assert row["positive_ids"] == [f"{prefix}{did}" for did in dids]
        assert not set(row["negative_ids"]) & set(row["positive_ids"])
        assert row["negatives"], "others are left"
        wrong = {format_string(texts[did]) for did in dids}  # 9:14 is what 9:15 is, by content
        assert not wrong & {item["text"] for item in row["negatives"]}
    back = read_rows(report.file, media=tmp_path)[0]
    assert back["positive_ids"] == mined[0]["positive_ids"]


def test_instruction_and_text_are_the_official_string(folder: Path) -> None:
    for record, row in zip(QUERIES[:2], (read(folder)[0], read(folder)[1]), strict=True):
        instruction = row["query"]["instruction"]
        joined = f"{instruction} {row['query']['text']}"
        assert joined == format_string(f"{instruction} {record['query_txt']}")


def test_choices_depend_on_the_seed_and_the_query_alone(folder: Path) -> None:
    seen = {}
    for seed in range(40):
        row = read(folder, seed=seed)[0]
        assert row == read(folder, seed=seed)[0]
        seen[row["positive_id"], row["query"]["instruction"]] = True
    assert len(seen) == 9, "three positives times three paraphrases"
    assert {prompt for _, prompt in seen} == {"Find me an image.", "Show the scene.", "Which picture?"}


def test_without_instructions(folder: Path) -> None:
    assert read(folder, instructions=None)[0]["query"] == {"text": "Two cats on a sofa."}


def test_rows_and_files_that_make_no_sense(folder: Path) -> None:
    rows = read(folder)
    for index, message in (
        (2, "candidate '4:9' has neither text nor image"),
        (3, "candidate '4:0' is not in the pool"),
        (4, "query 4:5 has no pos_cand_list"),
    ):
        with pytest.raises(FormatError, match=rf"^q\.jsonl:{index + 1}: {message}"):
            rows[index]
    (folder / "prompts.tsv").write_text(PROMPTS.replace("MSCOCO\t9", "MSCOCO\t8"))
    with pytest.raises(FormatError, match="query 9:1: no instruction for data set 9, text -> image"):
        read(folder)[0]
    (folder / "prompts.tsv").write_text("header\ntext\timage\tMSCOCO\t9\t\t\n")
    with pytest.raises(FormatError, match=r"prompts\.tsv:2: no prompt"):
        read(folder)
    (folder / "prompts.tsv").write_text(PROMPTS)
    (folder / "pool.jsonl").write_text("\n".join(json.dumps(POOL[n]) for n in (0, 1, 0)))
    with pytest.raises(FormatError, match=r"pool\.jsonl:3: did '9:10' stands at pool\.jsonl:1 already"):
        read(folder)
    with pytest.raises(ValueError, match="prompt is 'mean4'"):
        read(folder, prompt="mean4")
    with pytest.raises(ValueError, match="media: give the folder"):
        read(folder, media=None)

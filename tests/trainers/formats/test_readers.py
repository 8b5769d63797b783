"""Each published layout, by hand in small, becomes rows that the collator takes."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage

from umekit.processing.items import parse_item
from umekit.trainers.formats import FormatError, format_string, read_mmeb, read_pairs, read_rows, read_ume_r1
from umekit.trainers.sampling import Source, split_sources, target_codes


def lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(record) for record in records))
    return path


def picture(colour: str = "red") -> bytes:
    data = io.BytesIO()
    PILImage.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "images" / f"{name}.png").write_bytes(picture())
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/a.png", picture())
    return tmp_path


# ---- our own -----------------------------------------------------------------------------------


def test_our_rows(folder: Path) -> None:
    records = [
        {
            "query": {"text": "what?", "image": "images/a.png", "instruction": "Answer."},
            "positive": "a cat",
            "negatives": ["a dog", {"image": "images.zip::images/a.png"}],
            "negative_ids": ["d1", "d2"],
            "task": "qa",
            "query_thought": "hm",
            "unknown": 1,
        },
        {"query": "q", "positive": {"image": "../x.png"}},
        {"query": "q", "document": "d"},
        {"query": "q", "positive": "p", "negatives": "n"},
    ]
    rows = read_rows(lines(folder / "rows.jsonl", records))
    assert rows[0] == {
        "query": {"text": "what?", "image": str(folder / "images" / "a.png"), "instruction": "Answer."},
        "positive": "a cat",
        "negatives": ["a dog", {"image": picture()}],
        "negative_ids": ["d1", "d2"],
        "task": "qa",
        "query_thought": "hm",
    }
    for index, message in (
        (1, "may only name files below"),
        (2, "no 'positive'; the row has query, document"),
    ):
        with pytest.raises(FormatError, match=rf"rows\.jsonl:{index + 1}: .*{message}"):
            rows[index]
    with pytest.raises(FormatError, match=r"rows\.jsonl:4: 'negatives' is a list of items"):
        rows[3]


def test_our_rows_in_parquet_with_other_column_names(folder: Path) -> None:
    table = Dataset.from_list(
        [{"q": "x", "positive": {"text": None, "image": "images/b.png"}, "positive_id": 5}]
    )
    table.to_parquet(folder / "rows.parquet")
    rows = read_rows(folder / "rows.parquet", columns={"query": "q"}, cache_dir=folder / "cache")
    assert rows[0] == {
        "query": "x",
        "positive": {"image": str(folder / "images" / "b.png")},
        "positive_id": 5,
    }
    with pytest.raises(ValueError, match="unknown column 'queries'"):
        read_rows(folder / "rows.parquet", columns={"queries": "q"})


# ---- MMEB-train --------------------------------------------------------------------------------

MMEB = [
    {
        "qry": "<|image_1|>\nRepresent the given image for classification\n",
        "qry_image_path": "images/a.png",
        "pos_text": "goldfish",
        "pos_image_path": "",
        "neg_text": "",
        "neg_image_path": None,
    },
    {
        "qry": "Find me an everyday image that matches the given caption: a cat",
        "qry_image_path": "",
        "pos_text": "<|image_1|>\nRepresent the given image.",
        "pos_image_path": "images/b.png",
        "neg_text": "<|image_1|>\nRepresent the given image.",
        "neg_image_path": "images/c.png",
    },
    {
        "qry": "",
        "qry_image_path": "",
        "pos_text": "x",
        "pos_image_path": "",
        "neg_text": "",
        "neg_image_path": "",
    },
]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "dataset"])
def test_mmeb(folder: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    where: Any = Dataset.from_list(MMEB)
    if kind == "jsonl":
        where = lines(folder / "m.jsonl", MMEB)
    elif kind == "parquet":
        where.to_parquet(folder / "m.parquet")
        where = folder / "m.parquet"
    rows = read_mmeb(where, media=folder, dataset="ImageNet_1K", task="cls", cache_dir=folder / "cache")
    assert len(rows) == 2
    assert "1 of 3 rows have an empty query or positive" in caplog.text
    assert rows[0] == {
        "query": {
            "image": str(folder / "images" / "a.png"),
            "text": "Represent the given image for classification",
        },
        "positive": "goldfish",
        "negatives": [],
        "dataset": "ImageNet_1K",
        "task": "cls",
    }
    assert rows.names_only()[0]["query"]["image"] == "images/a.png"
    other = {"image": str(folder / "images" / "c.png"), "text": "Represent the given image."}
    assert rows[1]["negatives"] == [other]
    assert rows[1]["positive"] == {**other, "image": str(folder / "images" / "b.png")}
    assert rows[1]["positive_id"].startswith("images/b.png ")
    assert list(rows[0]["query"]) == ["image", "text"], "the picture comes first"


def test_mmeb_instruction_and_archive(folder: Path) -> None:
    rows = read_mmeb(
        MMEB[:1],
        media=folder / "images.zip",
        query_instruction="Represent the given image for classification",
    )
    assert rows[0]["query"] == {
        "image": picture(),
        "instruction": "Represent the given image for classification",
    }
    with pytest.raises(FormatError, match="row 0: the text does not begin with the instruction 'Find'"):
        read_mmeb(MMEB[:1], media=folder, query_instruction="Find")[0]


def test_mmeb_rows_that_make_no_sense(folder: Path) -> None:
    with pytest.raises(FormatError, match=r"row 0: <\|image_1\|> in the text, but no image"):
        read_mmeb([{**MMEB[0], "qry_image_path": ""}], media=folder)[0]
    with pytest.raises(ValueError, match="no column pos_text, pos_image_path"):
        read_mmeb(Dataset.from_list([{"qry": "a", "qry_image_path": "b"}]))
    with pytest.raises(ValueError, match="empty query or positive"):
        read_mmeb([MMEB[2]])
    many = {**MMEB[0], "neg_text": ["a", "b"], "neg_image_path": []}
    assert read_mmeb([many], media=folder)[0]["negatives"] == ["a", "b"]
    with pytest.raises(FormatError, match="2 neg_text and 1 neg_image_path"):
        read_mmeb([{**many, "neg_image_path": ["images/a.png"]}], media=folder)[0]


# ---- UME-R1 ------------------------------------------------------------------------------------

REQUEST = "Represent the above input text, images, videos, or any combination of the three as embeddings. \nFirst..."


def side(text: str, answer: str, **media: Any) -> dict[str, Any]:
    said = [{"from": "human", "value": f"{text}\n<disc_emb>\n{REQUEST}"}, {"from": "gpt", "value": answer}]
    return {**media, "conversations": said}


UME_R1 = [
    {
        "dataset_name": "CIRR",
        "qry": side(
            "<image>\nMake it red", "<think>It is\nred.</think><answer>red car<gen_emb>", image="images/a.png"
        ),
        "pos": side("<image>", "<think>A car.</think><answer>car</answer><gen_emb>", image=["images/b.png"]),
    },
    {
        "dataset_name": "HotpotQA",
        "qry": side("Who?", "<think>Hm.</think><answer>who <gen_emb>", image="images/blank.jpg"),
        "pos": side("She.", "<think>Her.</think><answer>she<gen_emb></answer>"),
    },
]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_ume_r1(folder: Path, kind: str) -> None:
    path = folder / f"sft.{kind}"
    path.write_text(json.dumps(UME_R1)) if kind == "json" else lines(path, UME_R1)
    rows = read_ume_r1(path, task="any")
    assert rows[0] == {
        "query": {"image": str(folder / "images" / "a.png"), "text": "Make it red"},
        "positive": {"image": str(folder / "images" / "b.png")},
        "negatives": [],
        "query_thought": "It is\nred.",
        "answer": "red car",
        "positive_thought": "A car.",
        "positive_answer": "car",
        "positive_id": "images/b.png",
        "dataset": "CIRR",
        "task": "any",
    }
    assert (rows[1]["query"], rows[1]["positive"]) == ("Who?", "She.")
    assert (rows[1]["answer"], rows[1]["positive_answer"]) == ("who", "she")
    assert "positive_id" not in rows[1]
    sources = split_sources(rows)
    assert [source.name for source in sources] == ["CIRR", "HotpotQA"]
    (folder / "images" / "a.png").unlink()
    assert [codes.tolist() for codes in target_codes(sources)] == [[0], [1]], "no medium is needed to plan"


def test_ume_r1_in_another_form(folder: Path) -> None:
    good = UME_R1[1]
    bad = [
        {**good, "qry": side("x", "<think>no end<answer>a<gen_emb>")},
        {**good, "pos": {"conversations": good["pos"]["conversations"][:1]}},
        {**good, "pos": {"text": "She."}},
        {**good, "qry": side("", "<think>a</think><answer>b<gen_emb>")},
        {**good, "qry": {"conversations": [{"from": "human"}]}},
    ]
    rows = read_ume_r1(lines(folder / "bad.jsonl", bad))
    messages = [
        "'qry': the answer is not <think>",
        r"'pos': a human and a gpt turn are expected, not \['human'\]",
        "no 'pos' with 'conversations'",
        "'qry': neither text nor media",
        "'qry': a turn without 'from' and 'value'",
    ]
    for index, message in enumerate(messages):
        with pytest.raises(FormatError, match=rf"^bad\.jsonl:{index + 1}: {message}"):
            rows[index]


# ---- sentence-transformers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "names", [("anchor", "positive"), ("query", "answer"), ("sentence1", "sentence2"), ("sent0", "sent1")]
)
def test_pairs(names: tuple[str, str]) -> None:
    rows = read_pairs([{names[0]: "q", names[1]: "p"}], instruction="Find it.", task="t", dataset="nli")
    assert rows[0] == {
        "query": {"text": "q", "instruction": "Find it."},
        "positive": "p",
        "negatives": [],
        "task": "t",
        "dataset": "nli",
    }


def test_negatives_in_order() -> None:
    record = {"anchor": "q", "positive": "p", "negative_10": "j", "negative_2": "b", "negative_3": None}
    assert read_pairs([record])[0]["negatives"] == ["b", "j"]
    assert read_pairs([{"anchor": "q", "positive": "p", "negatives": ["x", "y"]}])[0]["negatives"] == [
        "x",
        "y",
    ]
    assert read_pairs([{"sent0": "q", "sent1": "p", "hard_neg": "n"}])[0]["negatives"] == ["n"]


def test_pictures_stay_bytes() -> None:
    features = Features({"query": Value("string"), "positive": Image()})
    table = Dataset.from_dict(
        {"query": ["q"], "positive": [{"bytes": picture(), "path": None}]}, features=features
    )
    row = read_pairs(table)[0]
    assert row["positive"] == {"image": picture()}
    parse_item(row["positive"])


def test_labels_and_unknown_columns() -> None:
    with pytest.raises(FormatError, match="the column 'label' grades pairs"):
        read_pairs([{"sentence1": "a", "sentence2": "b", "label": 1}])
    with pytest.raises(FormatError, match=r"no column that is the query .* there are left, right: name it"):
        read_pairs([{"left": "a", "right": "b"}])
    rows = read_pairs([{"left": "a", "right": "b"}], columns={"query": "left", "positive": "right"})
    assert rows[0]["positive"] == "b"
    with pytest.raises(FormatError, match="no column 'middle'"):
        read_pairs([{"left": "a", "right": "b"}], columns={"query": "middle"})
    with pytest.raises(FormatError, match="row 0: 'positive' is empty"):
        read_pairs([{"anchor": "a", "positive": ""}])[0]


def test_rows_of_a_reader_are_a_source() -> None:
    rows = read_pairs([{"anchor": str(i), "positive": str(i % 2)} for i in range(4)])
    assert target_codes([Source("pairs", rows)])[0].tolist() == [0, 1, 0, 1]


def test_format_string() -> None:
    assert format_string(' "a cat\r" ') == "A cat."
    assert format_string("really?") == "Really?"
    assert format_string(None) == format_string('""') == ""


def test_several_positives_of_one_query_are_refused() -> None:
    """One of them would be the positive, and the others candidates for its negatives."""
    rows = read_pairs(
        [{"query": "q", "pos": ["a", "b"], "neg": ["c"]}, {"query": "q", "pos": ["a"], "neg": ["c"]}]
    )
    with pytest.raises(FormatError, match=r"row 0: 'pos' is a list of 2: give each of them a row of its own"):
        rows[0]
    assert rows[1] == {"query": "q", "positive": "a", "negatives": ["c"]}

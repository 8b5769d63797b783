"""Made-up data of each benchmark in its published layout, and beside them, by hand, what is to be ranked for whom.

Nothing here uses the readers: texts are written out as the official code assembles them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Item = dict[str, Any]
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple")


@dataclass
class Case:
    """A task's queries, each with its candidates and the gains of those that are right (by place)."""

    queries: list[Item] = field(default_factory=list)
    pools: list[list[Item]] = field(default_factory=list)
    gains: list[dict[int, float]] = field(default_factory=list)

    def add(self, query: Item, pool: list[Item], gains: dict[int, float]) -> None:
        self.queries.append(query)
        self.pools.append(pool)
        self.gains.append(gains)


def picture(path: Path, seed: int) -> str:
    """A small picture of two colours."""
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (56, 56), tuple(rng.integers(0, 255, 3).tolist()))
    image.paste(tuple(rng.integers(0, 255, 3).tolist()), (8, 8, int(rng.integers(20, 50)), 40))
    image.save(path)
    return str(path)


def frames(folder: Path, seed: int, count: int = 10) -> list[str]:
    """A folder of frames, and the eight that are shown; names sort otherwise than they count."""
    every = [
        picture(folder / f"frame_{number}.jpg", 1000 * seed + number // 4) for number in range(1, count + 1)
    ]
    return [every[place] for place in np.linspace(0, count - 1, 8, dtype=int)] if count >= 8 else every


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


# ---- MMEB-V2 ------------------------------------------------------------------------------------------------------


def image_task(root: Path, name: str, form: str, caption: bool = False) -> Case:
    case, rows = Case(), []
    first: dict[
        str, Item
    ] = {}  # of a path: a text finds pictures by their path, whatever another row says of them
    media = root / "image-tasks/MMEB"
    for number in range(3):
        shown = picture(media / f"{name}/q{number}.png", 10 + number)
        inst = (
            "<|image_1|>\nRepresent the image: "
            if form in ("qa", "i2i")
            else "<|image_1|> Describe the image \n"
        )
        row = {"qry_inst": inst, "qry_text": f"which {number}", "qry_img_path": f"{name}/q{number}.png"}
        if form == "t2i":
            row |= {"qry_inst": "Find a picture:", "qry_img_path": ""}
            query: Item = {"text": f"Find a picture: which {number}\n" + ("\n" if name == "VisDial" else "")}
        elif form in ("qa", "i2i"):
            query = {"image": shown, "text": f"\nRepresent the image: which {number}\n"}
        else:
            query = {"image": shown, "text": f"  Describe the image\n which {number}\n"}
        if form in ("t2i", "i2i"):
            paths = [f"{name}/c{(number + step) % 4}.png" for step in range(4)]
            texts = [f'"a {COLOURS[step]} one"' if caption else "" for step in range(4)]
            row |= {"tgt_inst": "<|image_1|> Represent it.", "tgt_text": texts, "tgt_img_path": paths}
            tail = "\n" if form == "t2i" or caption else ""
            said = [f"  Represent it.{f' {text}' if caption else ''}{tail}" for text in texts]
            pool = [
                {"image": picture(media / path, 40 + int(path[-5])), "text": text}
                for path, text in zip(paths, said, strict=True)
            ]
            if form == "t2i":
                pool = [first.setdefault(one["image"], one) for one in pool]
        else:
            texts = [COLOURS[(number + step) % 8] for step in range(5)]
            row |= {"tgt_inst": "", "tgt_text": texts, "tgt_img_path": [""] * 5}
            pool = [{"text": text} for text in texts]
        rows.append(row)
        case.add(query, pool, {0: 1.0})
    lines(root / f"image-query/{name}.jsonl", rows)
    return case


def v1_task(root: Path, name: str, form: str) -> Case:
    """MMEB-V1: whole strings with their placeholder and line breaks, which the official code leaves as they are."""
    from datasets import Dataset

    case, rows = Case(), []
    for number in range(3):
        texts = [f"{COLOURS[(number + step) % 8]}" for step in range(4)]
        if form == "qa":
            said, path = (
                f"Represent the given image with the following question: which {number}?\n",
                f"{name}/{number}.jpg",
            )
            query: Item = {"image": picture(root / "images" / path, 200 + number), "text": f"\n{said}"}
            row = {"qry_text": f"<|image_1|>\n{said}", "qry_img_path": path}
            row |= {"tgt_text": texts, "tgt_img_path": [""] * 4}
            pool: list[Item] = [{"text": text} for text in texts]
        else:
            query = {"text": f"Find me an image: {texts[0]}.\n"}
            paths = [f"{name}/c{(number + step) % 4}.jpg" for step in range(4)]
            row = {"qry_text": query["text"], "qry_img_path": "", "tgt_img_path": paths}
            row["tgt_text"] = ["<|image_1|>\nRepresent the given image.\n"] * 4
            shown = [picture(root / "images" / path, 210 + int(path[-5])) for path in paths]
            pool = [{"image": one, "text": "\nRepresent the given image.\n"} for one in shown]
        rows.append(row)
        case.add(query, pool, {0: 1.0})
    (root / name).mkdir(parents=True)
    Dataset.from_list(rows).to_parquet(str(root / name / "test-00000-of-00001.parquet"))
    return case


def hmdb51(root: Path) -> Case:
    from umekit.evaluation.benchmarks.videos import labels_of

    case, rows, labels = Case(), [], list(labels_of("HMDB51"))
    for number, label in enumerate(("wave", "golf", "eat")):
        shown = frames(root / f"video-tasks/frames/video_cls/HMDB51/clip{number}", number)
        rows.append({"video_id": f"clip{number}", "pos_text": label})
        text = " What actions or objects interactions are the person in the video doing?"
        case.add(
            {"video": shown, "text": text}, [{"text": one} for one in labels], {labels.index(label): 1.0}
        )
    lines(root / "video-tasks/data/hmdb51.jsonl", rows)
    return case


def ssv2(root: Path) -> Case:
    case, rows = Case(), []
    for number in range(3):
        shown = frames(root / f"video-tasks/frames/video_cls/SSv2/{number}", 5 + number, count=5)
        labels = ["Opening something", "Closing something", "Pushing something"]
        rows.append({"video_id": number, "pos_text": labels[number], "neg_text": labels})
        text = " What actions or object interactions are being performed by the person in the video?"
        case.add({"video": shown, "text": text}, [{"text": one} for one in labels], {number: 1.0})
    lines(root / "video-tasks/data/ssv2.jsonl", rows)
    return case


ASKED = (
    " Given a video and a question, select the most accurate answer from the provided candidates. Return only the "
    "exact text of your chosen answer. Question:  "
)


def nextqa(root: Path) -> Case:
    case, rows = Case(), []
    for number in range(3):
        shown = frames(root / f"video-tasks/frames/video_qa/NExTQA/{9741 + number}", 20 + number)
        options = [f"{COLOURS[(number + step) % 8]}" for step in range(5)]
        rows.append(
            {"video": 9741 + number, "question": "why", "answer": number, "qid": number, "type": "T"}
            | {f"a{step}": options[step] for step in range(5)}
        )
        text = (
            ASKED + "why\nOptions:\n" + "\n".join(f"({'ABCDE'[step]}) {options[step]}" for step in range(5))
        )
        case.add({"video": shown, "text": text}, [{"text": one} for one in options], {number: 1.0})
    frames(root / "video-tasks/frames/video_qa/NExTQA/209741", 77)  # ends as another one
    lines(root / "video-tasks/data/nextqa.jsonl", rows)
    return case


def mvbench(root: Path) -> Case:
    from umekit.evaluation.benchmarks.videos import MVBENCH

    case = Case()
    for number, subset in enumerate(MVBENCH):
        options, path = ["left", "right", "up"], root / f"video-tasks/data/mvbench/{subset}.json"
        shown = frames(root / f"video-tasks/frames/video_qa/MVBench/{subset}/a.mp4", number % 3)
        rows = [
            {"video": "a.mp4", "question": "where?", "candidates": options, "answer": options[number % 3]}
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
        lettered = [f"({'ABC'[step]}) {options[step]}" for step in range(3)]
        text = ASKED + "where?\nOptions:\n" + "\n".join(lettered)
        case.add({"video": shown, "text": text}, [{"text": one} for one in lettered], {number % 3: 1.0})
    return case


def video_mme(root: Path) -> Case:
    case, rows = Case(), []
    for number in range(2):
        shown = frames(root / f"video-tasks/frames/video_qa/Video-MME/v{number}", 30 + number)
        options = ["A. A dog.", "B. A cat.", "C. No one.", "D. A red digit."]
        rows.append({"videoID": f"v{number}", "question": "who?", "options": options, "answer": "DB"[number]})
        text = ASKED + "who?\n" + "\n".join(options)
        pool = [{"text": one} for one in ("A dog", "A cat", "No one", "A red digit")]
        case.add({"video": shown, "text": text}, pool, {(3, 1)[number]: 1.0})
    lines(root / "video-tasks/data/video-mme.jsonl", rows)
    return case


def egoschema(root: Path) -> Case:
    case, rows = Case(), []
    for number in range(2):
        shown = frames(root / f"video-tasks/frames/video_qa/EgoSchema/e{number}", 33 + number)
        options = [f"{'ABCDE'[step]}. c does {step}" for step in range(5)]
        rows.append(
            {"video_idx": f"e{number}", "question": "what?", "option": options, "answer": str(number)}
        )
        text = ASKED + "what?" + " ".join(options)
        case.add(
            {"video": shown, "text": text}, [{"text": f"c does {step}"} for step in range(5)], {number: 1.0}
        )
    lines(root / "video-tasks/data/egoschema.jsonl", rows)
    return case


def activitynet(root: Path) -> Case:
    case, rows = Case(), []
    for number, answer in enumerate(("no", "yes")):
        shown = frames(root / f"video-tasks/frames/video_qa/ActivityNetQA/v_a{number}", 36 + number)
        rows.append(
            {"video_name": f"a{number}", "question": "is it red", "answer": answer, "question_id": number}
        )
        case.add(
            {"video": shown, "text": ASKED + "is it red? (A) yes; (B) no."},
            [{"text": "yes"}, {"text": "no"}],
            {1 - number: 1.0},
        )
    lines(root / "video-tasks/data/activitynetqa.jsonl", rows)
    return case


RETRIEVAL = {
    "MSR-VTT": (
        "msr-vtt",
        "Find a video that contains the following visual content:",
        "video_id",
        "caption",
        False,
    ),
    "MSVD": (
        "msvd",
        "Find the video snippet that corresponds to the given summary:",
        "video_id",
        "caption",
        True,
    ),
    "DiDeMo": (
        "didemo",
        "Find a video that includes the following described scenes:",
        "video",
        "caption",
        False,
    ),
    "VATEX": ("vatex", "Select a video that fits the description provided:", "videoID", "enCap", True),
    "YouCook2": (
        "youcook2-val",
        "Find a video that demonstrates the following action while making a recipe:",
        "id",
        "sentence",
        False,
    ),
}


def video_retrieval(root: Path, name: str) -> Case:
    rows_name, instruction, id_column, text_column, many = RETRIEVAL[name]
    case, rows, pool = Case(), [], []
    for number in range(3):
        shown = frames(root / f"video-tasks/frames/video_ret/{name}/video{number}", 50 + number)
        pool.append({"video": shown, "text": " Understand the content of the provided video."})
        caption = f"a {COLOURS[number]} thing"
        named = f"there/video{number}.mp4" if name == "DiDeMo" else f"video{number}"
        rows.append({id_column: named, text_column: [caption, "another"] if many else caption})
        case.add({"text": f"{instruction} {caption}"}, pool, {number: 1.0})
    lines(root / f"video-tasks/data/{rows_name}.jsonl", rows)
    return case


def qvhighlight(root: Path) -> Case:
    case, rows = Case(), []
    for number in range(2):
        base = root / f"video-tasks/frames/video_mret/QVHighlight/clip{number}"
        shown = frames(base / "query", 60 + number)
        names = sorted(["negative_0", "negative_1", "positive_0"])
        pool = [
            {
                "video": frames(base / name, 63 + place + number),
                "text": " Understand the content of the provided video.",
            }
            for place, name in enumerate(names)
        ]
        rows.append({"query": "a red digit", "video_path": f"elsewhere/clip{number}.mp4"})
        text = " Find the clip that corresponds to the described scene in the given video: a red digit"
        case.add({"video": shown, "text": text}, pool, {names.index("positive_0"): 1.0})
    lines(root / "video-tasks/data/qvhighlight.jsonl", rows)
    return case


def momentseeker(root: Path) -> Case:
    case, rows = Case(), []
    base = root / "video-tasks/frames/video_mret/MomentSeeker"
    clips = [f"movie/part_{number}.mp4" for number in range(4)]
    shown = [frames(base / f"video_frames/movie_part_{number}", 70 + number) for number in range(4)]
    target = " Understand the content of the provided video clip."
    asked = [
        ("", {}, "Find the clip that corresponds to the given text: when"),
        (
            "still.jpg",
            {"image": picture(base / "query_still.jpg", 80)},
            " Select the video clip that aligns with the given text and image: when",
        ),
        (
            "movie/part_3.mp4",
            {"video": shown[3]},
            " Find the clip that corresponds to the given sentence and video segment: when",
        ),
    ]
    for number, (source, media, text) in enumerate(asked):
        good, bad = [number, (number + 1) % 4], [(number + 2) % 4]
        rows.append(
            {
                "query": "when",
                "input_frames": source,
                "positive_frames": [{"output_path": clips[one]} for one in good],
                "negative_frames": [{"output_path": clips[one]} for one in bad],
            }
        )
        pool = [{"video": shown[one], "text": target} for one in (*good, *bad)]
        case.add({**media, "text": text}, pool, {0: 1.0, 1: 1.0})
    lines(root / "video-tasks/data/momentseeker_1k6.jsonl", rows)
    return case


def documents(root: Path, name: str, folder: str) -> Case:
    """Pages in the rows, as parquet; gains above one, a double, and one that does not count."""
    from datasets import Dataset

    base, pages = root / f"visdoc-tasks/data/{folder}", []
    for number in range(4):
        path = root / f"aside/{name}/{number}.png"
        picture(path, 90 + number)
        pages.append({"corpus-id": f"p{number}", "image": {"bytes": path.read_bytes(), "path": None}})
    queries = [{"query-id": f"q{number}", "query": f"page {COLOURS[number]}"} for number in range(3)]
    qrels = [
        ("q0", "p0", 2),
        ("q0", "p2", 1),
        ("q0", "p2", 2),
        ("q1", "p1", 1),
        ("q1", "p3", 0),
        ("q2", "p3", 1),
    ]
    tables = {"corpus": pages, "queries": queries}
    tables["qrels"] = [{"query-id": q, "corpus-id": p, "score": s} for q, p, s in qrels]
    for part, rows in tables.items():
        (base / part).mkdir(parents=True, exist_ok=True)
        split = "train" if name.startswith("VisRAG") else "test"
        Dataset.from_list(rows).to_parquet(str(base / part / f"{split}-00000-of-00001.parquet"))
    case = Case()
    text = " Understand the content of the provided document image."
    pool = [{"image": page["image"]["bytes"], "text": text} for page in pages]
    for query, gains in zip(queries, ({0: 2.0, 2: 2.0}, {1: 1.0}, {3: 1.0}), strict=True):
        case.add(
            {"text": f"Find a document image that matches the given query: {query['query']}"}, pool, gains
        )
    return case


MMEB_V2: dict[str, Callable[[Path], Case]] = {
    "HatefulMemes": lambda root: image_task(root, "HatefulMemes", "i2t"),
    "DocVQA": lambda root: image_task(root, "DocVQA", "qa"),
    "MSCOCO_i2t": lambda root: image_task(root, "MSCOCO_i2t", "i2t"),
    "VisDial": lambda root: image_task(root, "VisDial", "t2i"),
    "EDIS": lambda root: image_task(root, "EDIS", "t2i", caption=True),
    "CIRR": lambda root: image_task(root, "CIRR", "i2i"),
    "RefCOCO-Matching": lambda root: image_task(root, "RefCOCO-Matching", "i2i", caption=True),
    "HMDB51": hmdb51,
    "SmthSmthV2": ssv2,
    "MVBench": mvbench,
    "Video-MME": video_mme,
    "NExTQA": nextqa,
    "EgoSchema": egoschema,
    "ActivityNetQA": activitynet,
    **{name: (lambda root, name=name: video_retrieval(root, name)) for name in RETRIEVAL},
    "QVHighlight": qvhighlight,
    "MomentSeeker": momentseeker,
    "ViDoRe_shiftproject": lambda root: documents(root, "ViDoRe_shiftproject", "shiftproject_test_beir"),
    "ViDoRe_esg_reports_v2_multilingual": lambda root: documents(
        root, "ViDoRe_esg_reports_v2_multilingual", "esg_reports_v2"
    ),
    "VisRAG_ChartQA": lambda root: documents(root, "VisRAG_ChartQA", "VisRAG-Ret-Test-ChartQA"),
    "ViDoSeek-page": lambda root: documents(root, "ViDoSeek-page", "ViDoSeek-page-fixed"),
}


MMEB_V1: dict[str, Callable[[Path], Case]] = {
    "A-OKVQA": lambda root: v1_task(root, "A-OKVQA", "qa"),
    "MSCOCO_t2i": lambda root: v1_task(root, "MSCOCO_t2i", "t2i"),
}


# ---- M-BEIR -------------------------------------------------------------------------------------------------------

# Every form of task: its data set and its id, what queries and candidates are made of, and what those of R@5 or R@10
# are asked among.
FORMS = {
    "visualnews_task0": (0, "text", "image", 8),
    "webqa_task1": (2, "text", "text", 8),
    "edis_task2": (3, "text", "image,text", 8),
    "mscoco_task3": (9, "image", "text", 8),
    "nights_task4": (4, "image", "image", 8),
    "oven_task6": (5, "image,text", "text", 8),
    "fashioniq_task7": (7, "image,text", "image", 14),
    "infoseek_task8": (6, "image,text", "image,text", 8),
}
OTHERS = "4:0"  # of another data set; OVEN's and InfoSeek's qrels name such, and these do not count


def mbeir(root: Path) -> dict[str, dict[str, Case]]:
    """A task of each form, in its own pool and in the union."""
    table = ["query_modality\tcand_modality\tdataset_name\tdataset_id\tprompt_1\tprompt_2"]
    union: list[Any] = []
    items: dict[str, Item] = {}
    asked: dict[str, list[tuple[Item, list[str]]]] = {}
    own: dict[str, list[str]] = {}
    for name, (dataset, query, candidate, size) in FORMS.items():
        table.append(f"{query}\t{candidate}\t{name.split('_')[0]}\t{dataset}\tfind {name}\tlook alike")
        pool = [_mbeir_candidate(root, f"{dataset}:{number}", candidate) for number in range(size)]
        items |= {row["did"]: item for row, item in pool}
        own[name] = [row["did"] for row, _ in pool]
        union += [row for row, _ in pool]
        middle = "_test" if name.startswith("mscoco") else ""
        lines(root / f"cand_pool/local/mbeir_{name}{middle}_cand_pool.jsonl", [row for row, _ in pool])
        rows = [_mbeir_query(root, name, number, size) for number in range(3)]
        asked[name] = [(item, right) for _, item, right in rows]
        lines(root / f"query/test/mbeir_{name}_test.jsonl", [row for row, _, _ in rows])
        qrels = [f"{row['qid']} 0 {did} 1 {name[-1]}\n" for row, _, _ in rows for did in row["pos_cand_list"]]
        path = root / f"qrels/test/mbeir_{name}_test_qrels.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(qrels), encoding="utf-8")
    (root / "instructions").mkdir(parents=True)
    (root / "instructions/query_instructions.tsv").write_text("\n".join(table) + "\n", encoding="utf-8")
    lines(root / "cand_pool/global/mbeir_union_test_cand_pool.jsonl", union)
    cases = {name: {"local": Case(), "global": Case()} for name in FORMS}
    for name, queries in asked.items():
        for kind, dids in (("local", own[name]), ("global", [row["did"] for row in union])):
            for item, right in queries:
                gains = {dids.index(did): 1.0 for did in right}
                cases[name][kind].add(item, [items[did] for did in dids], gains)
    return cases


def _mbeir_candidate(root: Path, did: str, modality: str) -> tuple[Item, Item]:
    dataset, number = map(int, did.split(":"))
    path = f"mbeir_images/{dataset}/{number}.jpg" if "image" in modality else None
    said = f"a {COLOURS[number % 8]} bird of {dataset}, number {number}" if "text" in modality else None
    row = {"did": did, "txt": said, "img_path": path, "modality": modality, "src_content": ""}
    item: Item = {} if path is None else {"image": picture(root / path, 1000 + 50 * dataset + number)}
    return row, item if said is None else {**item, "text": f"A{said[1:]}."}


def _mbeir_query(root: Path, name: str, number: int, size: int) -> tuple[Item, Item, list[str]]:
    """A query, its item, and what is right: two, of which one may be found and the other not."""
    dataset, modality, _, _ = FORMS[name]
    path = f"mbeir_images/{dataset}/q{number}.jpg" if "image" in modality else None
    said = f"the bird {number}" if "text" in modality else None
    right = [f"{dataset}:{number}", f"{dataset}:{size - 1 - number}"] if number else [f"{dataset}:0"]
    foreign = [OTHERS] if name.startswith(("oven", "infoseek")) else []
    row = {
        "qid": f"{dataset}:{number}", "query_txt": said, "query_img_path": path, "query_modality": modality,
        "query_src_content": "", "pos_cand_list": foreign + right, "neg_cand_list": [],
    }  # fmt: skip
    # each instruction is cleaned, and instruction and text together: the text keeps its small letter
    item: Item = {"instruction": f"Find {name}."}
    item |= {} if path is None else {"image": picture(root / path, 2000 + 50 * dataset + number)}
    return row, item | ({"text": f"{said}."} if said else {}), right


# ---- zero-shot ----------------------------------------------------------------------------------------------------

T2I = "Find me an everyday image that matches the given caption."
I2T = "Find an image caption describing the following everyday image."


T2V = "Find an everyday video match with caption."


def film(path: Path, seed: int) -> str:
    """A clip of a second."""
    av = pytest.importorskip("av")
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        track = container.add_stream("mpeg4", rate=4)
        track.width, track.height, track.pix_fmt = 56, 56, "yuv420p"
        for _ in range(4):
            frame = np.full((56, 56, 3), rng.integers(0, 255, 3), dtype=np.uint8)
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(track.encode())
    return str(path)


def msrvtt(root: Path) -> Case:
    """``MSRVTT_JSFUSION_test.csv`` beside whole clips; of a clip's sentences one is asked."""
    pool = [{"video": film(root / f"msrvtt/video{7010 + number}.mp4", 170 + number)} for number in range(4)]
    said = [f"someone, in {COLOURS[number]}, cooks" for number in range(4)]
    rows = [f'ret{number},msr{number},video{7010 + number},"{said[number]}"' for number in range(4)]
    table = "\n".join(["key,vid_key,video_id,sentence", *rows])
    (root / "msrvtt/MSRVTT_JSFUSION_test.csv").write_text(table + "\n", encoding="utf-8")
    case = Case()
    for number, text in enumerate(said):
        case.add({"text": text, "instruction": T2V}, pool, {number: 1.0})
    return case


def msvd(root: Path) -> Case:
    """Rows of ``VLM2Vec/MSVD`` beside folders of frames, 12 of which are shown; every caption is asked."""
    case, pool, rows = Case(), [], []
    for number in range(3):
        name = f"clip_{number}_{number + 5}"
        every = frames(root / f"msvd/{name}", 180 + number, count=15)
        assert len(every) == 8
        places = np.linspace(1, 15, 12, dtype=int)
        pool.append({"video": [str(root / f"msvd/{name}/frame_{place}.jpg") for place in places]})
        captions = [f"a {COLOURS[number + step]} cat" for step in range(number + 1)]
        rows.append({"video_id": name, "video": f"{name}.avi", "caption": captions})
    for number, row in enumerate(rows):
        for text in row["caption"]:
            case.add({"text": text, "instruction": T2V}, pool, {number: 1.0})
    lines(root / "msvd/test.jsonl", rows)
    return case


def zero_shot(root: Path) -> dict[str, Case]:
    names = ("Flickr30k_t2i", "Flickr30k_i2t", "ShareGPT4V_t2i", "Urban1K_i2t", "CIRCO")
    cases = {name: Case() for name in names} | {"MSR-VTT_t2v": msrvtt(root), "MSVD_t2v": msvd(root)}
    shown = [{"image": picture(root / f"flickr/images/{number}.png", 130 + number)} for number in range(2)]
    texts = [f"a {COLOURS[number]} house" for number in range(8)] + ["one more", "and one"]
    (root / "flickr/texts.json").write_text(json.dumps(texts), encoding="utf-8")
    said = [{"text": text[0].upper() + text[1:] + "."} for text in texts]
    for number, text in enumerate(said):
        cases["Flickr30k_t2i"].add({**text, "instruction": T2I}, shown, {number // 5: 1.0})
    for number, image in enumerate(shown):
        right = {5 * number + step: 1.0 for step in range(5)}
        cases["Flickr30k_i2t"].add({**image, "instruction": I2T}, said, right)
    rows, pool = [], []
    for number in range(3):
        pool.append({"image": picture(root / f"sharegpt4v/images/{number}.jpg", 140 + number)})
        rows.append({"image_name": f"{number}.jpg", "caption": f"it is {COLOURS[number]}"})
    (root / "sharegpt4v/captions.json").write_text(json.dumps(rows), encoding="utf-8")
    for number, row in enumerate(rows):
        cases["ShareGPT4V_t2i"].add({"text": row["caption"], "instruction": T2I}, pool, {number: 1.0})
    long = []
    for number in range(1, 4):
        (root / "Urban1k/caption").mkdir(parents=True, exist_ok=True)
        (root / f"Urban1k/caption/{number}.txt").write_text(f" street {number} \nsecond", encoding="utf-8")
        long.append({"text": f"street {number}"})
    for number in range(1, 4):
        image = {"image": picture(root / f"Urban1k/image/{number}.jpg", 150 + number)}
        cases["Urban1K_i2t"].add({**image, "instruction": I2T}, long, {number - 1: 1.0})
    images = [{"id": 100 + number, "file_name": f"{number}.jpg"} for number in range(8)]
    pool = [{"image": picture(root / f"circo/images/{number}.jpg", 160 + number)} for number in range(8)]
    entries = [
        {"id": number, "reference_img_id": 100 + number, "relative_caption": "is redder"}
        | {"target_img_id": 103 + number, "gt_img_ids": [103 + number, 105 + number]}
        for number in range(3)
    ]
    (root / "circo/annotations").mkdir(parents=True)
    for name, value in (("image_info_unlabeled2017", {"images": images}), ("val", entries)):
        (root / f"circo/annotations/{name}.json").write_text(json.dumps(value), encoding="utf-8")
    instruction = "I'm looking for a similar everyday image with the described changes."
    for number in range(3):
        query = {**pool[number], "text": "is redder", "instruction": instruction}
        cases["CIRCO"].add(query, pool, {3 + number: 1.0, 5 + number: 1.0})
    return cases

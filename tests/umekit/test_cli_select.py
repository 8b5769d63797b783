"""``umekit select``: its arguments, its parts, its workers, and the rows that it writes."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import umekit
from umekit.cli.common import UsageError
from umekit.cli.main import main
from umekit.cli.select import CHOICES, CONFIDENCES, SIDES, _prior, _worker, add_parser
from umekit.encoding.rationales import RATIONALE
from umekit.encoding.reasoner import Reasoner
from umekit.processing.thoughts import thought_and_answer
from umekit.testing import save_tiny_reranker
from umekit.trainers.selection import Worker, contribution, settings
from umekit.trainers.selection.workers import open_thinker

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for part in m.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a=folder", ("a", "folder", None)),
        ("a=org/name@0.7", ("a", "org/name", 0.7)),
        ("a-1=x@y@1", ("a-1", "x@y", 1.0)),
        ("a=x@y", ("a", "x@y", None)),
    ],
)
def test_workers(text: str, found: tuple[str, str, float | None]) -> None:
    assert _worker(text) == found


def test_words_of_the_call_are_those_of_the_settings() -> None:
    assert (CHOICES, SIDES) == (settings.CHOICES, settings.SIDES)
    assert contribution.CONFIDENCES == CONFIDENCES
    sides = {action.dest: action.help for action in parser_of()._actions}
    for side in SIDES:
        assert repr(RATIONALE) in str(sides[f"{side}_template"])


def parser_of() -> Any:
    """Of the verb."""
    parent = argparse.ArgumentParser().add_subparsers()
    add_parser(parent)
    return parent.choices["select"]


def test_what_is_no_worker_and_no_prior() -> None:
    with pytest.raises(UsageError, match="NAME=PATH"):
        _worker("folder")
    with pytest.raises(UsageError, match="NAME=P"):
        _prior("a=much")
    assert _prior("a=0.5") == ("a", 0.5)


def test_wrong_calls_are_told_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["select", str(tmp_path / "rows.jsonl"), "--evaluator", "e", "--out", str(tmp_path / "out")]
    assert main(call) == 2
    assert "there is no such file or folder" in capsys.readouterr().err
    assert main([*call, "--temperature", "-1"]) == 2
    assert "temperature is -1" in capsys.readouterr().err
    assert main([*call, "--query-template", "none"]) == 2
    assert "it has no {thought}" in capsys.readouterr().err


def test_rows_are_selected_in_parts_by_models(
    tmp_path: Path, tiny_backbone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = save_tiny_reranker(tmp_path / "evaluator", tiny_backbone("qwen3_vl"))
    thinker = umekit.load(role="generative", device="cpu")
    thinker.model.save_pretrained(tmp_path / "thinker")
    thinker.processor.save_pretrained(tmp_path / "thinker")
    pool = [{"worker": "mine", "thought": "so it is", "answer": "a"}]
    rows = [
        {"query": f"q {n}", "positive": f"p {n}", "negatives": ["a", "b"], "query_thoughts": pool}
        for n in range(3)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    call = ["select", str(tmp_path / "rows.jsonl"), "--evaluator", str(evaluator), "--quiet"]
    call += ["--out", str(tmp_path / "out"), "--block-size", "1", "--shard-size", "2", "--side", "query"]
    call += ["--worker", f"ours={tmp_path / 'thinker'}", "--worker", f"warm={tmp_path / 'thinker'}@1.5"]
    call += ["--num-samples", "2", "--max-new-tokens", "4", "--negatives", "1", "--margin", "-100"]
    assert main([*call, "--part", "2/2"]) == 0
    assert "part 2/2 is done" in capsys.readouterr().out
    assert main([*call, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 3
    told = report["statistics"]["query"]
    assert told["workers"]["mine"]["candidates"] == 3
    malformed = report["statistics"]["malformed"]  # four tokens seldom make a thought
    written = sum(one["candidates"] for name, one in told["workers"].items() if name != "mine")
    assert written <= 3 * 4
    assert sum(malformed.values()) <= 3 * 4
    assert written + sum(malformed.values()) > 0
    first = json.loads(Path(report["file"]).read_text().splitlines()[0])
    assert first["query"] == {"text": "q 0"}
    assert first["query_action"] == "reason"
    assert "positive_action" not in first
    assert main(call) == 0
    assert "samples to look at" in capsys.readouterr().out


def test_a_stock_model_is_a_worker(tiny_backbone: Callable[[str], Path], tmp_path: Path) -> None:
    """Its drawn thoughts depend on the seed alone, and have the form of our own."""
    folder = Path(shutil.copytree(tiny_backbone("qwen2_vl"), tmp_path / "stock"))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    stock = open_thinker(folder, device="cpu")
    assert isinstance(stock, Reasoner)
    worker = Worker("stock", stock, temperature=1.0, samples=2, max_new_tokens=6)
    first, again, other = (
        worker.thinker.encode(["a text", "another"], **worker.options("query", seed)) for seed in (3, 3, 4)
    )
    assert first.thoughts == again.thoughts
    assert first.thoughts != other.thoughts
    assert [len(one) for one in first.thoughts] == [2, 2]
    assert first.errors == []
    for text in first.thoughts[0]:
        thought, answer = thought_and_answer(text)
        assert text == f"<think>{thought}</think><answer>{answer}"
    assert stock.generation == {}  # what it was loaded with stays
    greedy = Worker("greedy", stock, max_new_tokens=6).thinker
    options = Worker("greedy", stock, max_new_tokens=6).options("positive", 0)
    found = [greedy.encode(["a text"], **options).thoughts for _ in range(2)]
    assert found[0] == found[1]
    assert isinstance(found[0][0], str)
    torn = worker.thinker.encode([{"image": tmp_path / "none.png"}, "b"], **worker.options("query", 0))
    assert [place for place, _ in torn.errors] == [0]

"""The README's Python runs as it stands, and its commands exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from umekit.cli.main import VERBS

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.filterwarnings("ignore")
def test_python_blocks_run(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r'"image": "([^"]+)"', README):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((84, 84, 3), dtype=np.uint8)).save(name)
    rows = [{"query": f"p{i} red", "positive": f"red at p{i}"} for i in range(1, 9)]
    scope: dict[str, Any] = {"folder": str(tiny_checkpoint("qwen2_vl")), "rows": rows}
    assert len(BLOCKS) >= 3
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"README block {number}", "exec"), scope)
    assert np.isfinite(np.asarray(scope["vectors"])).all()


def test_named_verbs_exist() -> None:
    named = set(
        re.findall(r"umekit ([a-z]+) ", "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL)))
    )
    named |= set(re.findall(r"`umekit ([a-z]+)", README))
    assert named <= set(VERBS)
    assert {"index", "search", "explain"} <= named


def test_three_doors_give_the_same_vectors(tiny_checkpoint: Callable[..., Path]) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoProcessor

    import umekit

    folder = str(tiny_checkpoint("qwen2_vl"))
    query = ["find the red 4"]
    ours = umekit.load(folder).encode_query(query)
    theirs = SentenceTransformer(folder, trust_remote_code=True, device="cpu").encode_query(query)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    plain = model.encode(query, processor=processor, role="query").numpy()
    np.testing.assert_allclose(plain, ours, atol=1e-5)

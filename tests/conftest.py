"""Tiny random checkpoints of the four backbone families, made once per session."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before anything imports transformers: nothing of a test may touch the user's caches or the network.
_CACHE = tempfile.mkdtemp(prefix="umekit-tests-")
os.environ["HF_HOME"] = _CACHE
os.environ["HF_MODULES_CACHE"] = str(Path(_CACHE) / "modules")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from PIL import Image

from umekit.testing import FAMILIES, save_tiny_backbone, save_tiny_checkpoint

# A busy machine is no reason to fail.
hypothesis_settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("patient")

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a tiny random backbone as it would be published: no settings of ours."""
    made: dict[str, Path] = {}

    def folder(family: str = "qwen2_vl") -> Path:
        if family not in made:
            made[family] = save_tiny_backbone(tmp_path_factory.mktemp(family) / "backbone", family)
        return made[family]

    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, tiny_backbone: Callable[[str], Path]
) -> Callable[..., Path]:
    """Folder of a tiny random checkpoint saved by umekit; keyword arguments are entries of ``UmeSettings``."""
    made: dict[str, Path] = {}

    def folder(family: str = "qwen2_vl", **settings: object) -> Path:
        key = f"{family}-{sorted(settings.items())}"
        if key not in made:
            target = tmp_path_factory.mktemp(family) / "checkpoint"
            made[key] = save_tiny_checkpoint(target, tiny_backbone(family), **settings)
        return made[key]

    return folder


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Six random pictures of different sizes."""
    rng = np.random.default_rng(0)
    sizes = [(60, 90), (128, 64), (84, 84), (200, 57), (33, 47), (150, 150)]
    return [Image.fromarray(rng.integers(0, 255, (h, w, 3), dtype=np.uint8)) for w, h in sizes]


@pytest.fixture
def mixed_items(pictures: list[Image.Image]) -> list[object]:
    """Items of every kind, in an order that mixes lengths and media."""
    return [
        "a short text",
        {"image": pictures[0]},
        {"text": "a text before a picture", "image": pictures[1]},
        {
            "video": pictures[:2] + pictures[:2],
            "text": "what happens here and what comes after that, in full?",
        },
        {"images": pictures[2:5], "instruction": "compare them"},
        "a much longer text " * 6,
        pictures[5],
    ]


@pytest.fixture(scope="session")
def encrypted_pdf() -> Callable[[str], bytes]:
    """Makes a PDF of one green page that a password opens (RC4 of 40 bits, revision 2 of the standard handler)."""
    return _encrypted_pdf


def _encrypted_pdf(password: str) -> bytes:
    padding = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    padded = (password.encode() + padding)[:32]
    identity = bytes(range(16))
    owner = _rc4(hashlib.md5(padded).digest()[:5], padded)
    key = hashlib.md5(padded + owner + (-4).to_bytes(4, "little", signed=True) + identity).digest()[:5]
    content = _rc4(
        hashlib.md5(key + (4).to_bytes(3, "little") + bytes(2)).digest()[:10], b"0 0.8 0 rg 0 0 300 400 re f"
    )
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 400]/Contents 4 0 R>>",
        b"<</Length %d>>stream\n%b\nendstream" % (len(content), content),
        b"<</Filter/Standard/V 1/R 2/P -4/O<%b>/U<%b>>>"
        % (owner.hex().encode(), _rc4(key, padding).hex().encode()),
    ]
    file, places = bytearray(b"%PDF-1.4\n"), []
    for number, body in enumerate(objects, start=1):
        places.append(len(file))
        file += b"%d 0 obj%b endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    name = identity.hex().encode()
    end = b"xref\n0 6\n0000000000 65535 f \n%btrailer<</Size 6/Root 1 0 R/Encrypt 5 0 R/ID[<%b><%b>]>>\n"
    return bytes(file + end % (table, name, name) + b"startxref\n%d\n%%%%EOF" % len(file))


def _rc4(key: bytes, data: bytes) -> bytes:
    box, j = list(range(256)), 0
    for i in range(256):
        j = (j + box[i] + key[i % len(key)]) % 256
        box[i], box[j] = box[j], box[i]
    out, i, j = bytearray(), 0, 0
    for byte in data:
        i = (i + 1) % 256
        j = (j + box[i]) % 256
        box[i], box[j] = box[j], box[i]
        out.append(byte ^ box[(box[i] + box[j]) % 256])
    return bytes(out)

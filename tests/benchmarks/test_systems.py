"""The table of systems says what the fixtures hold."""

from __future__ import annotations

import systems

from umekit.encoding.golden.folder import read_golden
from umekit.encoding.presets import PRESETS


def test_modalities_are_those_of_items_and_candidates() -> None:
    def of(name: str) -> list[str]:
        return systems.modalities(read_golden(systems.FIXTURES / name))

    assert of("lamra_ret") == ["text", "image"]
    assert of("vlm2vec_v2") == ["text", "image", "several images", "video"]
    assert of("qwen3vl_reranker") == ["text", "image", "video"]


def test_a_system_with_two_modes_is_verified_in_both() -> None:
    found = systems.checked(PRESETS["ume-r1"])
    assert found["modes"] == ["discriminative", "generative"]
    assert found["items"] == 2 * len(read_golden(systems.FIXTURES / "ume_r1").cases)
    assert found["largest_difference"] < 1e-5

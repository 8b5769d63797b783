"""The adaptive kind: one prefill, decisions of each item on its own, and vectors that are those of the other modes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from favouring import favour
from torch import Tensor

import umekit
from umekit.evaluation.digit_world import DigitWorld
from umekit.modeling import adaptive as adaptive_module
from umekit.modeling.adaptive import UmeForAdaptiveEmbedding
from umekit.modeling.budget import Budget
from umekit.modeling.reasoning import ThoughtWishes
from umekit.modeling.settings import UmeSettings, UmeSettingsError
from umekit.modeling.strategies import Margin, Policy, Probe, ReadPrompts, Reasoned, Strategy, best_two
from umekit.processing.processor import UmeProcessor

Open = Callable[..., tuple[UmeForAdaptiveEmbedding, UmeProcessor]]


@pytest.fixture
def opened(tiny_checkpoint: Callable[..., Path]) -> Open:
    def open_(family: str = "qwen2_vl", **settings: Any) -> tuple[UmeForAdaptiveEmbedding, UmeProcessor]:
        folder = tiny_checkpoint(family, role="adaptive", **settings)
        model = UmeForAdaptiveEmbedding.from_pretrained(folder)
        favour(model, {model.thought_tokens.gen_emb: 0.35})  # thoughts of several lengths
        return model, UmeProcessor.from_pretrained(folder)

    return open_


def _close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), atol=1e-5, rtol=0)


def _encode(model: Any, processor: Any, items: Any, **options: Any) -> Any:
    return model.encode(items, processor=processor, return_details=True, **{"mode": "adaptive", **options})


def _middle(scores: list[float]) -> float:
    """A kappa that is well apart from every score, with some on either side."""
    ordered = sorted(scores)
    gaps = [(high - low, (high + low) / 2) for low, high in pairwise(ordered)]
    return max(gaps)[1]


def test_a_mixed_batch_is_its_items_alone_and_every_vector_is_that_of_a_mode(
    family: str, opened: Open, mixed_items: list[Any]
) -> None:
    model, processor = opened(family)
    kappa = _middle(_encode(model, processor, mixed_items, kappa=1).reason_scores)
    found = _encode(model, processor, mixed_items, kappa=kappa)
    assert set(found.modes) == {"discriminative", "generative"}
    assert found.modes == [
        "generative" if score > kappa else "discriminative" for score in found.reason_scores
    ]
    both = _encode(model, processor, mixed_items, mode="both")
    for place, (item, mode) in enumerate(zip(mixed_items, found.modes, strict=True)):
        _close(found.embeddings[place], both.embeddings[mode][place])
        alone = _encode(model, processor, [item], kappa=kappa)
        assert alone.modes == [mode]
        assert alone.thought_ids == [found.thought_ids[place]]
        assert alone.thought_tokens == [found.thought_tokens[place]]
        _close(alone.embeddings[0], found.embeddings[place])
        _close(alone.reason_scores[0], found.reason_scores[place])
        thinks = mode == "generative"
        assert found.thought_ids[place] == (both.thought_ids[place] if thinks else None)
        assert (found.thoughts[place] is not None) == thinks
        assert found.forced[place] == (thinks and both.forced[place])
        assert (found.thought_tokens[place] > 0) <= thinks
    padded = _encode(
        model, processor, [*mixed_items, "a text that is far longer than the others " * 20], kappa=kappa
    )
    _close(padded.embeddings[:-1], found.embeddings)
    assert padded.modes[:-1] == found.modes
    backwards = _encode(model, processor, mixed_items[::-1], kappa=kappa, batch_size=3)
    _close(backwards.embeddings.flip(0), found.embeddings)


def test_kappa_goes_from_always_to_never(opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened()
    for kappa, mode, ratio in ((0.0, "generative", 1.0), (1.0, "discriminative", 0.0)):
        found = _encode(model, processor, mixed_items, kappa=kappa)
        assert found.modes == [mode] * len(mixed_items)
        assert found.invocation_ratio == ratio
        _close(found.embeddings, _encode(model, processor, mixed_items, mode=mode).embeddings)


def test_the_decision_is_read_off_the_prompt(opened: Open, mixed_items: list[Any]) -> None:
    """p(reason) is a softmax over two logits; a NumPy twin from the states of a plain forward."""
    model, processor = opened()
    found = _encode(model, processor, mixed_items, kappa=1)
    rows = processor.prepare_all(mixed_items, mode="adaptive")
    with torch.no_grad():
        states = model(**processor.collate(rows, padding_side="left")).last_hidden_state[:, -1]
        logits = model.logits_of(states).numpy()
    names = model.settings.tokens
    two = np.exp(logits[:, [names["reason"], names["direct"]]])
    np.testing.assert_allclose(found.reason_scores, two[:, 0] / two.sum(axis=1), atol=1e-5)
    with torch.enable_grad():
        states = states.clone().requires_grad_()
        model.action_logits(states).sum().backward()
    assert bool(states.grad.abs().sum() > 0)  # training can reach it


def test_there_is_one_prefill_and_rows_leave_at_once(
    opened: Open, mixed_items: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = opened()
    kappa = _middle(_encode(model, processor, mixed_items, kappa=1).reason_scores)
    read, widths = [], []
    plain, step = adaptive_module.prefill, adaptive_module.ReadPrompts.__dict__["take"]

    def prefill(*args: Any) -> Any:
        read.append(len(args[1]["input_ids"]))
        return plain(*args)

    def take(prompts: Any, places: Any) -> None:
        widths.append((len(prompts), len(places)))
        step(prompts, places)

    monkeypatch.setattr(adaptive_module, "prefill", prefill)
    monkeypatch.setattr(adaptive_module.ReadPrompts, "take", take)
    found = _encode(model, processor, mixed_items, kappa=kappa, batch_size=7)
    assert sum(read) == 7  # each prompt once
    assert sum(kept for _, kept in widths) == found.modes.count("generative") > 0
    assert all(kept <= whole for whole, kept in widths)
    assert sum(whole for whole, _ in widths) <= 7  # and of no batch twice


def test_an_action_is_never_written(opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened()
    direct = model.settings.tokens["direct"]
    favour(model, {direct: 50.0})
    for mode in ("adaptive", "generative"):
        found = _encode(
            model, processor, mixed_items, mode=mode, **({"kappa": 0} if mode == "adaptive" else {})
        )
        written = {token for ids in found.thought_ids if ids for token in ids}
        assert direct not in written
    assert set(_encode(model, processor, mixed_items).modes) == {"discriminative"}  # p(reason) is 0 now


def test_samples_and_their_reductions(opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened()
    kappa = _middle(_encode(model, processor, mixed_items, kappa=1).reason_scores)
    options = {"num_samples": 3, "seed": 4}
    mean = _encode(model, processor, mixed_items, kappa=kappa, **options)
    every = _encode(model, processor, mixed_items, kappa=kappa, reduce=None, **options)
    alone = _encode(model, processor, mixed_items, kappa=kappa, batch_size=1, **options)
    _close(alone.embeddings, mean.embeddings)
    assert every.embeddings.shape == (len(mixed_items), 3, model.dim)
    for place, mode in enumerate(mean.modes):
        if mode == "generative":
            assert [len(ids) for ids in mean.thought_ids[place]] == mean.thought_tokens[place]
            summed = torch.nn.functional.normalize(every.embeddings[place].mean(dim=0), dim=-1)
            _close(mean.embeddings[place], summed)
        else:
            assert mean.thought_tokens[place] == 0
            _close(every.embeddings[place], mean.embeddings[place].expand(3, -1))
    counted = [sum(one) if isinstance(one, list) else one for one in mean.thought_tokens]
    assert mean.tokens_per_item == pytest.approx(sum(counted) / len(counted))


def test_given_thoughts_are_decided_on_as_own_ones(opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened()
    thoughts = _encode(model, processor, mixed_items, mode="generative").thought_ids
    kappa = _middle(_encode(model, processor, mixed_items, kappa=1).reason_scores)
    for how in ({"kappa": kappa}, {"budget": 5}):
        own = _encode(model, processor, mixed_items, **how)
        given = _encode(model, processor, mixed_items, thoughts=thoughts, **how)
        if "kappa" in how:
            assert given.modes == own.modes
            assert given.thought_ids == own.thought_ids
            _close(given.embeddings, own.embeddings)
            _close(given.reason_scores, own.reason_scores)
        assert given.thought_tokens == [
            len(ids) if mode == "generative" else 0 for ids, mode in zip(thoughts, given.modes, strict=True)
        ]
    twice = [[ids, ids] for ids in thoughts]
    several = _encode(
        model, processor, mixed_items, kappa=kappa, thoughts=twice, num_samples=2, temperature=0
    )
    _close(several.embeddings, _encode(model, processor, mixed_items, kappa=kappa).embeddings)
    none = [ids if place % 2 else None for place, ids in enumerate(thoughts)]  # the others think themselves
    mixed = _encode(model, processor, mixed_items, kappa=kappa, thoughts=none)
    _close(mixed.embeddings, several.embeddings)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_a_budget_is_kept_by_the_model(opened: Open, batch_size: int) -> None:
    model, processor = opened(max_new_tokens=6)
    favour(model, {model.thought_tokens.gen_emb: -50.0})  # six tokens each
    items = [f"text {number} " * (1 + number % 7) for number in range(100)]
    found = _encode(model, processor, items, budget=2, batch_size=batch_size)
    assert found.tokens_per_item == pytest.approx(2, rel=0.05)
    assert 0 < found.invocation_ratio < 1
    both = _encode(model, processor, items, mode="both")
    for place, mode in enumerate(found.modes):  # thoughts that waited for others are the same
        _close(found.embeddings[place], both.embeddings[mode][place])
        assert found.thought_ids[place] == (both.thought_ids[place] if mode == "generative" else None)


def test_one_account_over_calls_of_one_item(opened: Open) -> None:
    model, processor = opened(max_new_tokens=6)
    favour(model, {model.thought_tokens.gen_emb: -50.0})
    account = Budget(2)
    tokens = [
        _encode(model, processor, f"text {number} " * (1 + number % 7), budget=account).thought_tokens[0]
        for number in range(60)
    ]
    assert (account.items, account.longest) == (60, 6)
    assert account.tokens_spent == sum(tokens)
    assert abs(sum(tokens) - 2 * 60) <= 0.02 * 2 * 60 + 6


class _Latent(Strategy):
    """Reasoning of another kind (PLUME, LaME): K tokens that stand for a thought, read in one pass."""

    def __init__(self, token: int, count: int, steps: bool = False) -> None:
        self.token, self.count, self.steps = token, count, steps
        self.passes = 0

    def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
        return Policy().scores(model, prompts)

    def reason(self, model: Any, prompts: ReadPrompts, wishes: ThoughtWishes) -> Reasoned:
        tokens = torch.full((len(prompts), self.count), self.token)
        rows = prompts.rows
        assert rows is not None
        for part in tokens.split(1, dim=1) if self.steps else [tokens]:
            rows.step(part)
            self.passes += 1
        vectors = torch.nn.functional.normalize(rows.state.float(), dim=-1)
        return Reasoned(vectors, [self.count] * len(prompts), [])


def test_reasoning_may_be_of_another_kind(family: str, opened: Open, mixed_items: list[Any]) -> None:
    """The seam: K reason tokens in one pass need no other call than a thought does."""
    model, processor = opened(family)
    token = model.settings.tokens["reason"]
    kappa = _middle(_encode(model, processor, mixed_items, kappa=1).reason_scores)
    latent = _Latent(token, 4)
    found = _encode(model, processor, mixed_items, kappa=kappa, strategy=latent)
    assert set(found.modes) == {"discriminative", "generative"}
    assert found.thoughts == [None] * len(mixed_items)
    assert found.thought_tokens == [4 if mode == "generative" else 0 for mode in found.modes]
    direct = _encode(model, processor, mixed_items, mode="discriminative").embeddings
    rows = processor.prepare_all(mixed_items, mode="adaptive")
    for place, mode in enumerate(found.modes):
        expected = direct[place]
        if mode == "generative":  # one forward over the prompt and its four tokens
            with torch.no_grad():
                batch = processor.collate([rows[place].continued([token] * 4, 2)])
                expected = model(**batch).generated_embeddings[0]
        _close(found.embeddings[place], expected)
    slow = _Latent(token, 4, steps=True)
    stepwise = _encode(model, processor, mixed_items, kappa=kappa, strategy=slow)
    assert slow.passes == 4 * latent.passes  # one a batch
    _close(stepwise.embeddings, found.embeddings)
    met = _encode(model, processor, ["a text", "another"] * 50, budget=1, strategy=_Latent(token, 4))
    assert met.tokens_per_item == pytest.approx(1, rel=0.06)


def test_a_margin_gate_thinks_of_close_calls(opened: Open, mixed_items: list[Any]) -> None:
    model, processor = opened()
    direct = _encode(model, processor, mixed_items, mode="discriminative").embeddings
    candidates = torch.nn.functional.normalize(
        torch.randn(9, model.dim, generator=torch.manual_seed(1)), dim=1
    )
    ranked = -np.sort(-(direct.numpy() @ candidates.numpy().T), axis=1)
    margins = ranked[:, 0] - ranked[:, 1]
    for gate in (
        Margin(candidates),
        Margin(candidates.numpy()),
        Margin(lambda v: best_two(v, candidates).numpy()),
    ):
        found = _encode(model, processor, mixed_items, strategy=gate, kappa=1)
        np.testing.assert_allclose(found.reason_scores, 1 - margins, atol=1e-5)
        least = _middle(margins.tolist())
        found = _encode(model, processor, mixed_items, strategy=gate, kappa=1 - least)
        assert found.modes == ["generative" if margin < least else "discriminative" for margin in margins]
    with pytest.raises(ValueError, match="two candidates at least"):
        Margin(candidates[:1])


def test_a_probe_decides_and_is_saved_with_the_checkpoint(
    opened: Open, mixed_items: list[Any], tmp_path: Path
) -> None:
    model, processor = opened()
    weight = torch.randn(model.dim, generator=torch.manual_seed(2))
    states: list[Tensor] = []

    class Seen(Strategy):
        def scores(self, model: Any, prompts: ReadPrompts) -> Tensor:
            states.append(prompts.state.clone())
            return torch.zeros(len(prompts))

    _encode(model, processor, mixed_items, strategy=Seen(), batch_size=1)
    # Batches are the longest first.
    lengths = [row.length for row in processor.prepare_all(mixed_items, mode="adaptive")]
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    wanted = 1 / (1 + np.exp(-(torch.cat(states).numpy() @ weight.numpy() + 0.25)))
    with pytest.raises(ValueError, match="has no reasoning_probe"):
        _encode(model, processor, mixed_items, strategy="probe")
    model.set_probe(Probe(weight, 0.25), kappa=_middle(wanted.tolist()))
    found = _encode(model, processor, mixed_items)
    np.testing.assert_allclose([found.reason_scores[place] for place in order], wanted, atol=1e-5)
    assert set(found.modes) == {"discriminative", "generative"}
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    del model.logits_of  # what was favoured is not in the weights
    expected = _encode(model, processor, mixed_items)
    again = umekit.load(tmp_path / "saved", device="cpu")
    assert again.model.settings == model.settings
    reloaded = again.encode(mixed_items, return_details=True)
    assert reloaded.modes == expected.modes
    _close(reloaded.embeddings, expected.embeddings)
    (tmp_path / "saved" / "reasoning_probe.safetensors").unlink()
    with pytest.raises(UmeSettingsError, match="and has no reasoning_probe"):
        umekit.load(tmp_path / "saved", device="cpu")


def test_a_broken_probe_is_named(opened: Open, mixed_items: list[Any], tmp_path: Path) -> None:
    for weight, bias in (
        (torch.ones(2, 2), 0.0),
        (torch.ones(3), [1.0, 2.0]),
        (torch.full((3,), torch.nan), 0.0),
    ):
        with pytest.raises(ValueError, match="a probe"):
            Probe(weight, bias)
    path = tmp_path / "reasoning_probe.safetensors"
    path.write_bytes(b"not one")
    with pytest.raises(ValueError, match="holds no probe"):
        Probe.load(path)
    model, processor = opened()
    with pytest.raises(ValueError, match="states of 3 numbers"):
        _encode(model, processor, mixed_items[:1], strategy=Probe(torch.ones(3), 0.0))


def test_wrong_calls_say_so(opened: Open, tiny_checkpoint: Callable[..., Path]) -> None:
    model, processor = opened()
    for options, words in (
        ({"kappa": 0.5, "budget": 3}, "give one of them"),
        ({"kappa": 2}, "kappa is 2"),
        ({"budget": 0}, "budget is 0"),
        ({"strategy": "margin"}, "use 'policy', 'probe' or an object"),
        ({"mode": "generative", "kappa": 0.5}, "only mode='adaptive' decides"),
        ({"mode": "discriminative", "budget": 3}, "only mode='adaptive' decides"),
    ):
        with pytest.raises(ValueError, match=words):
            _encode(model, processor, "a text", **options)
    generative = umekit.load(tiny_checkpoint("qwen2_vl", role="generative"), role="adaptive", device="cpu")
    with pytest.raises(UmeSettingsError, match="no policy of its own"):
        generative.encode("a text")
    assert generative.encode("a text", strategy=Probe(torch.zeros(64), 1.0)).shape == (1, 64)
    for kappa in (-1, 2, True, "0.5"):
        with pytest.raises(UmeSettingsError, match="kappa"):
            UmeSettings(kind="adaptive", kappa=kappa)  # type: ignore[arg-type]
    assert "kappa" not in UmeSettings(kind="generative").to_dict()


def test_sentence_transformers_is_a_door(
    tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]
) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = tiny_checkpoint("qwen2_vl", role="adaptive", max_new_tokens=6)
    encoder = umekit.load(folder, device="cpu")
    st = library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    kappa = _middle(encoder.encode(mixed_items, kappa=1, return_details=True).reason_scores)
    expected = encoder.encode(mixed_items, kappa=kappa, return_details=True)
    for batch_size in (1, 7):
        _close(st.encode(mixed_items, kappa=kappa, batch_size=batch_size), expected.embeddings)
        cost = st[0].cost
        assert (cost.items, cost.reasoned) == (7, expected.modes.count("generative"))
        assert cost.tokens_per_item == pytest.approx(expected.tokens_per_item)
        assert cost.seconds_per_item > 0
    for mode in ("generative", "discriminative"):
        _close(st.encode(mixed_items, mode=mode), encoder.encode(mixed_items, mode=mode))
    texts = [f"text {number} " * (1 + number % 7) for number in range(60)]
    for batch_size in (1, 16):
        st.encode(texts, budget=2, batch_size=batch_size)
        assert abs(st[0].cost.thought_tokens - 120) <= 0.02 * 120 + 6
    for options, words in (
        ({"kappa": 0.5, "mode": "generative"}, "are of mode='adaptive'"),
        ({"kappa": 0.5, "budget": 3}, "give one of them"),
    ):
        with pytest.raises(ValueError, match=words):
            st.encode(texts, **options)


def test_the_encoder_is_a_door(tiny_checkpoint: Callable[..., Path], mixed_items: list[Any]) -> None:
    encoder = umekit.load(tiny_checkpoint("qwen2_vl", role="adaptive", max_new_tokens=6), device="cpu")
    kappa = _middle(encoder.encode(mixed_items, kappa=1, return_details=True).reason_scores)
    items = [*mixed_items, mixed_items[0], {"image": "nowhere.png"}]
    found = encoder.encode(items, kappa=kappa, on_error="skip", return_details=True, batch_tokens=300)
    alone = encoder.model.encode(
        mixed_items, processor=encoder.processor, kappa=kappa, return_details=True, batch_size=1
    )
    _close(found.embeddings[:7], alone.embeddings)
    assert found.modes[:8] == [*alone.modes, alone.modes[0]]  # equal items are one, here
    np.testing.assert_array_equal(found.embeddings[7], found.embeddings[0])
    assert [index for index, _ in found.errors] == [8]
    assert found.invocation_ratio == found.modes.count("generative") / 9
    assert found.tokens_per_item == pytest.approx(sum(found.thought_tokens) / 9)
    assert 0 < found.seconds_per_item < found.seconds
    same = ["the same text"] * 50
    met = encoder.encode(same, budget=2, return_details=True)  # and here each has its turn
    assert abs(sum(met.thought_tokens) - 100) <= 0.02 * 100 + 6
    query = encoder.encode_query("a text", kappa=0)
    _close(query, encoder.encode_query("a text", mode="generative"))


def test_ume_tiny_can_decide() -> None:
    """The committed model, read as an adaptive one: texts, pictures and clips of its world, alone as in a batch."""
    encoder: Any = umekit.load(role="adaptive", device="cpu")
    items: list[Any] = []
    for task in ("retrieve_scene", "retrieve_clip"):
        pool = DigitWorld("test", seed=3).pool(task, queries=4, size=4)
        items += [*pool.queries[:3], *pool.candidates[:3]]
    options = {"mode": "adaptive", "max_new_tokens": 4, "return_details": True}
    kappa = _middle(encoder.encode(items, kappa=1, **options).reason_scores)
    found = encoder.encode(items, kappa=kappa, **options)
    assert set(found.modes) == {"discriminative", "generative"}
    for place, item in enumerate(items):
        alone = encoder.encode([item], kappa=kappa, **options)
        assert (alone.modes, alone.thought_ids) == ([found.modes[place]], [found.thought_ids[place]])
        _close(alone.embeddings[0], found.embeddings[place])

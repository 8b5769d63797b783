"""A stock model that thinks for an embedder (Think-Then-Embed, arXiv 2510.05014): items to what it says of them.

The reasoner is any image-text-to-text model of transformers, opened by an installed class with its own chat template.
Its tokens are its own, so what it hands on is text: a given thought for an embedder that thinks, text after the content
for one that does not.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from PIL import Image

from ..modeling.batching import TokenBudget, default_tokens, plan_batches
from ..modeling.evaluating import evaluating
from ..modeling.pooling import whole_number
from ..modeling.weights_hash import feed_weights
from ..processing.items import ItemError, parse_item
from ..processing.processor import UmeProcessor
from .calls import as_items, compute_alone_after_fork
from .deduplication import first_occurrences
from .fingerprint import HashOfWeights
from .reasoner_loading import open_stock
from .reasoner_questions import Question, as_shown, instruction_of

PROMPT = (
    "Think about the above step by step: what it shows or asks for, and what follows from it. Then end with one line "
    "that says in a few words what is to be found or known by it."
)
APPENDED = "\n{thought}"  # after the content of an item, for an embedder that does not think
WINDOW = 64  # items whose media are held at a time
Side = Literal["both", "query", "document"]


@dataclass(frozen=True)
class Thought:
    """What a reasoner has written of an item: text, its tokens, and whether it was cut at their limit."""

    text: str
    tokens: int
    cut: bool

    def as_given(self) -> tuple[str, str]:
        """Thought and answer, as ``encode(thoughts=...)`` takes them.

        What is before ``</think>`` and after it; without that tag, the last line is the answer.
        """
        thought, closed, answer = self.text.partition("</think>")
        if not closed:
            thought, _, answer = self.text.rpartition("\n")
        for tag in ("<think>", "<answer>", "</answer>"):
            thought, answer = thought.replace(tag, ""), answer.replace(tag, "")
        return thought.strip(), answer.strip()


class Reasoner:
    """A stock image-text-to-text model that says what it thinks of items; see :func:`umekit.load`.

    It is shown an item's instruction, its parts in order and then the ``prompt``, in one turn. Documents are shown as
    their pages and videos as up to ``frames`` of their frames, all as pictures, since few models take more. Names of
    special tokens in an item get a space behind their first letter, so that they stay text.

    Args:
        model: from ``AutoModelForImageTextToText``.
        processor: its own, by an installed class.
        chat_template: its own.
        prompt: what it is asked.
        appended: how an embedder that does not think reads the thought, after an item's content; has ``{thought}``.
        side: whose items it thinks of; those without a role only with ``"both"``.
        max_new_tokens: of a thought; a longer one is cut, which details of an encoding say (``forced``).
        frames: most of a video.
        batch_tokens: padded tokens of a batch, thoughts included; chosen by device when None.
        template_options: more variables of the chat template, such as ``{"enable_thinking": False}``.
        generation: more arguments of ``generate``. Greedy without; what is drawn is another thought in each call.

    Raises:
        ValueError: a wording without ``{thought}``, an unknown side, or a number that is none.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        chat_template: str,
        *,
        prompt: str = PROMPT,
        appended: str = APPENDED,
        side: Side = "both",
        max_new_tokens: int = 512,
        frames: int = 8,
        batch_tokens: int | None = None,
        template_options: Mapping[str, Any] | None = None,
        generation: Mapping[str, Any] | None = None,
    ) -> None:
        if "{thought}" not in appended:
            raise ValueError(f"appended is {appended!r}: it has no {{thought}}, so that none would be read")
        if side not in ("both", "query", "document"):
            raise ValueError(f"side is {side!r}; use 'both', 'query' or 'document'")
        self.model, self.processor, self.chat_template = model, processor, chat_template
        self.prompt, self.appended, self.side = prompt, appended, side
        self.max_new_tokens = whole_number("max_new_tokens", max_new_tokens)
        self.frames = whole_number("frames", frames)
        chosen = 4 * default_tokens(model.device) if batch_tokens is None else batch_tokens
        self.batch_tokens = whole_number("batch_tokens", chosen)
        self.template_options, self.generation = dict(template_options or {}), dict(generation or {})
        self.tokenizer = processor.tokenizer
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._hash = HashOfWeights(model, self._made_of)

    def __repr__(self) -> str:
        return f"Reasoner({self.model.config.model_type}, side={self.side!r}, {self.model.dtype}, {self.model.device})"

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        device: str | torch.device | None = None,
        dtype: Any = None,
        revision: str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Reasoner:
        """Load an image-text-to-text model of transformers: safetensors and installed classes, no code of its own.

        Args:
            source: folder or Hub repository.
            device, dtype: as for :func:`umekit.load`.
            revision: of the repository.
            model_kwargs: go to the model's ``from_pretrained`` (``attn_implementation``, ``quantization_config`` ...).
            options: arguments of the class.

        Raises:
            CheckpointFilesError: a file is not what it should be; no safetensors; no chat template; an adapter
                without its base; an embedder.
            RemoteCodeError: it can only be opened by running code that it brings.
            LoadAuditError: it leaves a weight missing.
            DeviceError: no such device here.
        """
        model, processor, template = open_stock(
            source, device=device, dtype=dtype, revision=revision, model_kwargs=model_kwargs
        )
        return cls(model, processor, template, **options)

    # ---- thinking -------------------------------------------------------------------------------------------------

    def thinks_of(self, role: str | None) -> bool:
        """Whether it thinks of items of a role."""
        return self.side in ("both", role)

    def think(
        self,
        items: Any,
        *,
        role: str | None = None,
        instruction: str | None = None,
        processor: UmeProcessor | None = None,
    ) -> list[str]:
        """What it thinks of each item, in order; see :meth:`write`.

        Raises:
            ItemError: which item is wrong, and how.
        """
        found = self.write(items, role=role, instruction=instruction, processor=processor)
        for thought in found:
            if isinstance(thought, Exception):
                raise thought
        return [thought.text for thought in found if isinstance(thought, Thought)]

    def write(
        self,
        items: Any,
        *,
        role: str | None = None,
        instruction: str | None = None,
        processor: UmeProcessor | None = None,
        numbers: Sequence[int] | None = None,
    ) -> list[Thought | ItemError]:
        """Of each item its thought, or why it has none; equal items have one thought.

        Args:
            items: as for :meth:`Encoder.encode`.
            role: whose default instruction it is shown.
            instruction: replaces the default; an item's own wins over both.
            processor: the embedder's: its instructions, media limits, frames and pages hold.
            numbers: of the items, for messages; their places when None.
        """
        compute_alone_after_fork()
        listed = as_items(items)
        numbers = range(len(listed)) if numbers is None else numbers
        firsts = first_occurrences(listed)
        unique = [index for index, first in enumerate(firsts) if index == first]
        found: dict[int, Thought | ItemError] = {}
        budget = TokenBudget(self.batch_tokens, self.model.device)
        with evaluating(self.model), torch.inference_mode():
            for start in range(0, len(unique), WINDOW):
                rows: list[tuple[int, Question]] = []
                for index in unique[start : start + WINDOW]:
                    try:
                        rows.append(
                            (index, self.ask(listed[index], numbers[index], role, instruction, processor))
                        )
                    except ItemError as error:
                        found[index] = error
                for pictured in (False, True):  # processors take no batch where some have none
                    found |= self._answer([row for row in rows if bool(row[1].images) == pictured], budget)
        return [_numbered(found[first], numbers[index]) for index, first in enumerate(firsts)]

    def ask(
        self,
        item: Any,
        index: int | None = None,
        role: str | None = None,
        instruction: str | None = None,
        processor: UmeProcessor | None = None,
    ) -> Question:
        """An item as a prompt of this model, its media read.

        Raises:
            ItemError: which item is wrong, and how.
        """
        parsed = parse_item(item, index)
        instruction = instruction_of(parsed, role, instruction, processor)
        content: list[dict[str, Any]] = []
        images: list[Image.Image] = []
        if instruction:
            content.append({"type": "text", "text": self._as_text(instruction) + "\n"})
        try:
            for shown in as_shown(parsed, processor, self.frames):
                if isinstance(shown, str):
                    content.append({"type": "text", "text": self._as_text(shown)})
                    continue
                content += [{"type": "image"}] * len(shown)
                images += shown
            content.append({"type": "text", "text": "\n" + self.prompt})
            text = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}],
                chat_template=self.chat_template,
                tokenize=False,
                add_generation_prompt=True,
                **self.template_options,
            )
            question = Question(text, images)
            tokens = int(self._inputs([question])["input_ids"].shape[1])
        except ImportError:
            raise
        except Exception as error:  # of a template, a processor or a decoder: the item is named
            raise ItemError(f"the reasoner cannot read it: {error}"[:500], index) from error
        most = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if most is not None and tokens + self.max_new_tokens > most:
            raise ItemError(
                f"the reasoner has {most} positions, and this item has {tokens} tokens and a thought up to "
                f"{self.max_new_tokens}: give fewer or smaller media, or a smaller max_new_tokens",
                index,
            )
        return replace(question, tokens=tokens)

    def _answer(
        self, rows: list[tuple[int, Question]], budget: TokenBudget
    ) -> dict[int, Thought | ItemError]:
        """Thoughts of questions by index, in batches of the budget; halved where memory runs out."""
        found: dict[int, Thought | ItemError] = {}
        while rows:
            sizes = [question.tokens + self.max_new_tokens for _, question in rows]
            planned = [[rows[place] for place in batch] for batch in plan_batches(sizes, budget.tokens)]
            rows = []
            for place, batch in enumerate(planned):
                questions = [question for _, question in batch]
                done = budget.attempt(lambda asked=questions: self._generate(asked))  # type: ignore[misc]
                if done is not None:
                    found |= dict(zip((index for index, _ in batch), done, strict=True))
                elif len(batch) > 1:
                    longest = max(question.tokens for question in questions) + self.max_new_tokens
                    budget.halve(len(batch) * longest)
                    rows = [row for later in planned[place:] for row in later]
                    break
                else:
                    [(index, question)] = batch
                    found[index] = ItemError(
                        f"its {question.tokens} tokens do not fit into the memory of {budget.device} even alone: "
                        "give the reasoner smaller or fewer media"
                    )
        return found

    def _generate(self, questions: Sequence[Question]) -> list[Thought]:
        inputs = self._inputs(questions).to(self.model.device, self.model.dtype)
        greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
        options = {**greedy, "pad_token_id": self.tokenizer.pad_token_id, **self.generation}
        rows = self.model.generate(**inputs, max_new_tokens=self.max_new_tokens, **options)
        begun = 0 if self.model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends or ())
        thoughts = []
        for ids in rows[:, begun:].tolist():
            length = next((place for place, token in enumerate(ids) if token in ends), len(ids))
            text = self.tokenizer.decode(ids[:length], skip_special_tokens=True).strip()
            thoughts.append(Thought(text, length, cut=length == len(ids)))
        return thoughts

    def _inputs(self, questions: Sequence[Question]) -> Any:
        """A batch padded on the left."""
        images = [question.images for question in questions]
        begin = self.tokenizer.bos_token
        begun = begin is not None and questions[0].text.startswith(begin)  # by the template
        return self.processor(
            text=[question.text for question in questions],
            images=images if images[0] else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            **({"add_special_tokens": False} if begun else {}),
        )

    def _as_text(self, text: str) -> str:
        """A text without the names of special tokens."""
        names = {*self.tokenizer.all_special_tokens}
        names |= {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        names |= {
            str(getattr(self.processor, name))
            for name in ("image_token", "video_token")
            if getattr(self.processor, name, None)
        }
        for name in sorted(names, key=len, reverse=True):
            if len(name) > 1:
                text = text.replace(name, f"{name[0]} {name[1:]}")
        return text

    # ---- who it is ------------------------------------------------------------------------------------------------

    def fingerprint(self) -> str:
        """sha256 of weights, tokenizer, template, wording and how it generates: what its thoughts depend on."""
        return self._hash()

    def _made_of(self) -> str:
        settings = self.model.generation_config.to_diff_dict()
        settings.pop("transformers_version", None)
        facts = {
            "wording": [self.prompt, self.appended, self.side, self.chat_template],
            "options": [self.max_new_tokens, self.frames, self.template_options, self.generation, settings],
            "processor": [type(self.processor).__name__, self.processor.image_processor.to_dict()],
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        feed_weights(digest, self.model)
        return digest.hexdigest()


def _numbered(found: Thought | ItemError, number: int) -> Thought | ItemError:
    """An error of an item as that of this one, which is equal to it."""
    if isinstance(found, Thought) or found.index == number:
        return found
    return type(found)(str(found).removeprefix(f"item {found.index}: "), number)

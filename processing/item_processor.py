"""Items and pairs in, model inputs out.

An item is rendered by the checkpoint's chat template and nothing else; the processor then says, with
``pooling_slots``, which tokens carry the embedding.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

from torch import Tensor
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .collating import PixelScale, Place, Prepared, collate
from .cut_texts import Cuts
from .families import family_of
from .items import ItemError, parse_item
from .limits import MediaError, MediaLimits
from .pairs import QueryPairs
from .preparing import PromptContext, explain, gives_list, prepare_item
from .prompts import MODES, ROLES, compile_template
from .settings import ProcessorSettings
from .thoughts import listed_thoughts, thoughts_of_item
from .tokenizing import IMAGE_TOKEN, VIDEO_TOKEN, VISION_END, VISION_START, PromptTokenizer
from .vision import Patches, PatchLayout


class ItemProcessor(ProcessorMixin):  # type: ignore[misc]
    """Turns items into model inputs.

    Args:
        image_processor: the backbone's own; its patch geometry and normalisation are used, its pixels are not.
        tokenizer: a fast tokenizer with the backbone's vision tokens.
        chat_template: Jinja template; compiled from ``settings.prompt`` when None.
        settings: family, prompt, pooling, pixel budget, frame sampling, length; Qwen2-VL's defaults when None.
        limits: what one file may cost.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        settings: ProcessorSettings | None = None,
        limits: MediaLimits | None = None,
    ) -> None:
        self.settings = settings if settings is not None else ProcessorSettings()
        self.limits = limits if limits is not None else MediaLimits()
        self.image_token, self.video_token = IMAGE_TOKEN, VIDEO_TOKEN
        super().__init__(
            image_processor, tokenizer, chat_template=chat_template or compile_template(self.settings.prompt)
        )
        self.prompt_tokenizer = PromptTokenizer(tokenizer)
        for token in (IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END):
            if token not in self.prompt_tokenizer.added:
                raise ValueError(
                    f"the tokenizer has no special token {token}: it belongs to another backbone"
                )
        self.image_token_id = self.prompt_tokenizer.id_of(IMAGE_TOKEN)
        self.video_token_id = self.prompt_tokenizer.id_of(VIDEO_TOKEN)
        self.layout = PatchLayout(
            image_processor.patch_size, image_processor.merge_size, image_processor.temporal_patch_size
        )
        self.scale = PixelScale(tuple(image_processor.image_mean), tuple(image_processor.image_std))
        self.family = family_of(self.settings.family)
        self.thinking = False  # whether prompts ask for a thought; see for_mode
        self.origin: tuple[str, dict[str, Any]] | None = (
            None  # the checkpoint this came from, and Hub arguments
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    @property
    def context(self) -> PromptContext:
        """What the functions that make model inputs are told."""
        return PromptContext(
            self.settings,
            self.limits,
            self.layout,
            self.family,
            self.prompt_tokenizer,
            str(self.chat_template),
            self.tokenizer.special_tokens_map,
            self.thinking,
        )

    def with_settings(self, **changes: Any) -> Self:
        """A processor with some settings replaced and its template compiled anew."""
        settings = replace(self.settings, **changes)
        other = type(self)(self.image_processor, self.tokenizer, None, settings, self.limits)
        other.origin = self.origin
        return other

    def with_max_length(self, max_length: int) -> Self:
        """A processor with another ``max_length`` that shares everything else with this one."""
        return self._with(replace(self.settings, max_length=max_length))

    def _with(self, settings: ProcessorSettings) -> Self:
        """This processor, or one with other settings that have no say in the template."""
        if settings == self.settings:
            return self
        other = copy.copy(self)
        other.settings = settings
        return other

    def for_call(self, items: Sequence[Any]) -> Self:
        """This processor, or where one list of pictures sets the budget of a whole call, one with that budget."""
        budget = self.settings.budget
        if budget.listed is None or budget.listed_scope != "call" or not any(map(gives_list, items)):
            return self
        return self._with(replace(self.settings, budget=replace(budget, image=budget.listed)))

    def for_mode(self, mode: str | None) -> Self:
        """This processor, or for a mode that thinks, one that writes that mode's prompts.

        The tokens up to the direct embedding are the same in every mode.
        """
        if mode not in (None, *MODES, "both"):
            raise ValueError(f"mode is {mode!r}; use one of {(*MODES, 'both')}")
        thinking = mode not in (None, "discriminative")
        if thinking == self.thinking:
            return self
        other = copy.copy(self)
        other.thinking = thinking
        return other

    # ---- items to model inputs ----------------------------------------------------------------------------------

    def prepare(
        self,
        item: Any,
        *,
        role: str | None = None,
        instruction: str | None = None,
        index: int | None = None,
        mode: str | None = None,
        thought: Any = None,
        num_samples: int = 1,
        max_new_tokens: int | None = None,
    ) -> Prepared:
        """One item as token ids, patches and slots.

        Args:
            item: see ``items.parse_item``.
            role: None, ``"query"`` or ``"document"``: which default instruction.
            instruction: replaces the default; the item's own ``instruction`` wins over both. "" for none.
            index: the item's position, for messages.
            mode: whose prompt; this processor's own when None.
            thought: given in place of one that the model writes; see ``thoughts.thought_ids``.
            num_samples: thoughts of the item; for more than one, ``thought`` is a list.
            max_new_tokens: most that a given thought may have; any number when None.

        Raises:
            ItemError: what is wrong with which item.
        """
        if role is not None and role not in ROLES:
            raise ValueError(f"role is {role!r}; use None, 'query' or 'document'")
        parsed = parse_item(item, index, empty=self.settings.empty_items)
        if parsed.instruction is not None:
            instruction = parsed.instruction
        elif instruction is None:
            instruction = self.settings.prompt.instructions.get(role or "default", "")
        processor = self if mode is None else self.for_mode(mode)
        try:
            given = thoughts_of_item(
                self.prompt_tokenizer, thought, num_samples, max_new_tokens, len(self.tokenizer)
            )
            row = prepare_item(processor.context, parsed, instruction, role)
            row.given = given
            return row
        except ItemError:
            raise
        except (MediaError, ValueError, TypeError) as error:
            raise ItemError(str(error), index) from error

    def prepare_all(
        self,
        items: Sequence[Any],
        *,
        role: str | None = None,
        instruction: str | None = None,
        mode: str | None = None,
        thoughts: Any = None,
        tell_cuts: bool = True,
        **options: Any,
    ) -> list[Prepared]:
        """:meth:`prepare` for every item of a sequence, each with its own of the ``thoughts``, where there are any.

        One warning tells of those that were cut (``tell_cuts``). ``options``: ``num_samples``, ``max_new_tokens``.
        """
        processor = self.for_call(items)
        processor = processor if mode is None else processor.for_mode(mode)
        given = [None] * len(items) if thoughts is None else listed_thoughts(thoughts, len(items))
        options |= {"role": role, "instruction": instruction}
        rows = [
            processor.prepare(item, index=index, thought=thought, **options)
            for index, (item, thought) in enumerate(zip(items, given, strict=True))
        ]
        if tell_cuts:
            Cuts().see(rows).warn(len(rows))
        return rows

    def collate(
        self,
        rows: Sequence[Prepared],
        padding_side: str | None = None,
        *,
        pixels: bool = True,
        place: Place | None = None,
    ) -> BatchFeature:
        """A padded batch of prepared items; see ``collating.collate``. Padding is on the right when None."""
        pad = self.tokenizer.pad_token_id
        return collate(
            rows,
            pad_id=0 if pad is None else pad,
            scale=self.scale,
            temporal=self.layout.temporal,
            padding_side=padding_side or "right",
            pixels=pixels,
            place=place,
            seconds_per_grid=(
                self.layout.temporal / self.settings.sampling.fps if self.family.seconds_per_grid else None
            ),
        )

    def encode_items(
        self,
        items: Sequence[Any],
        *,
        padding_side: str | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Items to a padded batch for the model, slots included; ``options`` as for :meth:`prepare_all`."""
        return self.collate(self.prepare_all(items, **options), padding_side)

    def explain(self, item: Any, **options: Any) -> dict[str, Any]:
        """What the model will see of an item: rendered text, tokens, slots, grids and pixels; see :meth:`prepare`."""
        return explain(self.prepare(item, **options), self.layout, self.tokenizer)

    # ---- pairs ---------------------------------------------------------------------------------------------------

    def pairs_with(self, query: Any, instruction: str | None = None) -> QueryPairs:
        """A query that is read once, to be paired with candidates; see :class:`QueryPairs`."""
        return QueryPairs(self.context, query, instruction)

    def prepare_pair(
        self, query: Any, candidate: Any, *, instruction: str | None = None, index: int | None = None
    ) -> Prepared:
        """A query and a candidate, both items, as one row; its slot is the answer position.

        Args:
            query, candidate: see ``items.parse_item``.
            instruction: what to look for; the query's own wins over it, the checkpoint's default is used for None.
            index: the candidate's position, for messages.

        Raises:
            ItemError: what is wrong with which item.
            PairError: this checkpoint's prompts are not of pairs.
        """
        return self.pairs_with(query, instruction).prepare(candidate, index)

    def prepare_pairs(
        self, query: Any, candidates: Sequence[Any], *, instruction: str | None = None
    ) -> list[Prepared]:
        """:meth:`prepare_pair` for every candidate; the query is read once. One warning tells of pairs that were cut.

        Raises:
            TypeError: one candidate where a list of them belongs; its letters would be scored one by one.
        """
        if isinstance(candidates, (str, Mapping)):
            raise TypeError(f"cannot score a {type(candidates).__name__}: give candidates in a list")
        pairs = self.pairs_with(query, instruction)
        rows = [pairs.prepare(candidate, index) for index, candidate in enumerate(candidates)]
        Cuts().see(rows).warn(len(rows))
        return rows

    def pixels(self, media: Sequence[Patches], place: Place | None = None) -> Tensor:
        """Patches as the vision tower reads them, float32 ``[patches, C*T*P*P]``, where ``place`` takes their bytes."""
        return self.scale.apply(media, self.layout.temporal, place)

    def answer_tokens(self, yes: str, no: str) -> dict[str, int]:
        """Entries of ``config.ume.tokens`` for two answers.

        Raises:
            ValueError: an answer is not exactly one token of this tokenizer.
        """
        found = {}
        for name, text in (("yes", yes), ("no", no)):
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) != 1:
                raise ValueError(
                    f"the answer {text!r} is {len(ids)} tokens of this tokenizer, and must be one"
                )
            found[name] = int(ids[0])
        return found

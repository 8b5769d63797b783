"""The remaining tasks: pages, paraphrases, composed retrieval, and the three that ask for reasoning.

Notable: a page is asked for by two of its lines; a page pool rejects every page on which both lines of
another query stand, so that exactly one page answers each query.
"""

from __future__ import annotations

from dataclasses import dataclass

from .edits import Edit, near_edit, random_edit
from .pages import Page, near_page, random_page
from .rows import Draw, Example, Task, answered, constant_strata, retrieved
from .scenes import Scene
from .tasks_image import draw_scene, near
from .walks import (
    MAX_TERMS,
    Sum,
    Walk,
    answers,
    gold_strata,
    make_sum,
    make_until_gold,
    make_walk,
    walk_strata,
)

AMOUNTS: tuple[str, ...] = tuple(str(amount) for amount in range(1, 100))
GOLD_ANSWERS: tuple[str, ...] = tuple(f"gold {digit}" for digit in range(1, 10))
SUMS: tuple[str, ...] = tuple(str(total) for total in range(1, 9 * MAX_TERMS + 1))


@dataclass(frozen=True)
class PageQuery:
    """A page and the two lines that the query names; near-duplicates differ in the first of them."""

    page: Page
    lines: tuple[int, int]

    @property
    def text(self) -> str:
        """`receipt with tea 47 and rice 12`."""
        first, second = (self.page.entries[line].text for line in self.lines)
        return f"{self.page.kind} with {first} and {second}"

    def answered_by(self, page: Page) -> bool:
        """True where `page` is of the asked kind and has both lines."""
        lines = {entry.text for entry in page.entries}
        asked = {self.page.entries[line].text for line in self.lines}
        return page.kind == self.page.kind and asked <= lines


def draw_page_query(draw: Draw) -> PageQuery:
    page = random_page(draw.glyphs, draw.rng)
    first, second = draw.rng.permutation(len(page.entries))[:2].tolist()
    return PageQuery(page, (first, second))


def near_page_query(subject: PageQuery, turn: int, draw: Draw) -> PageQuery:
    change = "label" if turn % 3 == 2 else "digit"
    return PageQuery(near_page(subject.page, subject.lines[0], change, draw.glyphs, draw.rng), subject.lines)


def _pages_clash(query: PageQuery, candidate: PageQuery) -> bool:
    return query.answered_by(candidate.page)


def _find_page(subject: PageQuery, draw: Draw) -> Example:
    positive = {"image": subject.page.render(draw.glyphs)}
    return Example({"text": subject.text}, positive, subject.page.caption, subject.text, "page")


def _ask_page(subject: PageQuery, draw: Draw) -> Example:
    entry = subject.page.entries[subject.lines[0]]
    query = {"image": subject.page.render(draw.glyphs), "text": f"how much is {entry.label}"}
    amount = str(entry.amount)
    # the page is read out, then the line that is asked for
    return answered(query, amount, f"{subject.page.caption} {entry.text}")


def _paraphrase(scene: Scene, draw: Draw) -> Example:
    """Caption -> paraphrase or the other way round, by the stratum of the draw (0 or 1)."""
    texts = (scene.caption, scene.paraphrase)
    query, positive = texts if draw.slot == 0 else texts[::-1]
    return retrieved({"text": query}, {"text": positive}, scene.caption, "caption")


def _edit(draw: Draw) -> Edit:
    return random_edit(draw.glyphs, draw.rng)


def _near_edit(edit: Edit, turn: int, draw: Draw) -> Edit:
    return near_edit(edit, turn, draw.glyphs, draw.rng)


def _there_and_back(edit: Edit) -> list[Edit]:
    """So that the scene before the change is always among the candidates."""
    return [edit, edit.back]


def _edit_scene(edit: Edit, draw: Draw) -> Example:
    """Negative: the scene before the edit."""
    source, meaning = edit.source.render(draw.glyphs), edit.target.caption
    query, positive = {"image": source, "text": edit.text}, {"image": edit.target.render(draw.glyphs)}
    return retrieved(query, positive, meaning, "scene", {"image": source})


def _walk(draw: Draw) -> Walk:
    return make_walk(draw.glyphs, draw.rng, draw.slot, draw.max_hops)


def _until_gold(draw: Draw) -> Walk:
    return make_until_gold(draw.glyphs, draw.rng, draw.slot, draw.max_hops)


def _ask_walk(walk: Walk, draw: Draw) -> Example:
    return _ask(walk, walk.question, draw)


def _ask_until_gold(walk: Walk, draw: Draw) -> Example:
    return _ask(walk, walk.gold_question, draw)


def _ask(walk: Walk, question: str, draw: Draw) -> Example:
    query = {"image": walk.scene.render(draw.glyphs), "text": question}
    return answered(query, walk.answer, walk.thought, steps=walk.hops)


def _sum(draw: Draw) -> Sum:
    return make_sum(draw.glyphs, draw.rng, draw.slot)


def _ask_sum(subject: Sum, draw: Draw) -> Example:
    query = {"image": subject.scene.render(draw.glyphs), "text": "sum of the red digits"}
    return answered(query, subject.answer, subject.thought, steps=len(subject.cells))


OTHER_TASKS: tuple[Task, ...] = (
    Task("retrieve_page", "visdoc_retrieval", "text", "image", draw_page_query, _find_page,
         near=near_page_query, clashes=_pages_clash),
    Task("ask_page", "visdoc_retrieval", "image+text", "text", draw_page_query, _ask_page, labels=AMOUNTS),
    Task("paraphrase", "text_text", "text", "text", draw_scene, _paraphrase, strata=constant_strata(2),
         near=near),
    Task("edit_scene", "composed", "image+text", "image", _edit, _edit_scene, near=_near_edit,
         group=_there_and_back),
    Task("walk", "walk", "image+text", "text", _walk, _ask_walk, labels=answers(), strata=walk_strata),
    Task("until_gold", "until_gold", "image+text", "text", _until_gold, _ask_until_gold,
         labels=GOLD_ANSWERS, strata=gold_strata),
    Task("sum", "sum", "image+text", "text", _sum, _ask_sum, parallel=True, labels=SUMS,
         strata=constant_strata(MAX_TERMS)),
)  # fmt: skip

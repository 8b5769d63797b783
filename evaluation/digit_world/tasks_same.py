"""Same meaning, other hand: a scene, a clip or a page is found by what another writer made of it."""

from __future__ import annotations

from .clips import Clip
from .other_hand import rewritten, rewritten_clip, rewritten_page
from .rows import Draw, Row, Task, make_row
from .scenes import Scene
from .tasks_image import draw_scene, near
from .tasks_other import PageQuery, draw_page_query, near_page_query
from .tasks_video import draw_clip, near_in_turns


def _same_scene(scene: Scene, draw: Draw) -> Row:
    other = rewritten(scene, draw.glyphs, draw.rng)
    return make_row(
        "same_scene", "image_retrieval",
        {"image": other.render(draw.glyphs)}, {"image": scene.render(draw.glyphs)},
        positive_id=scene.caption, thought=scene.caption, answer="scene",
    )  # fmt: skip


def _same_clip(clip: Clip, draw: Draw) -> Row:
    other = rewritten_clip(clip, draw.glyphs, draw.rng)
    return make_row(
        "same_clip", "video_retrieval",
        {"video": other.render(draw.glyphs)}, {"video": clip.render(draw.glyphs)},
        positive_id=clip.caption, thought=clip.caption, answer="clip",
    )  # fmt: skip


def _same_page(subject: PageQuery, draw: Draw) -> Row:
    other = rewritten_page(subject.page, draw.glyphs, draw.rng)
    meaning = subject.page.caption
    return make_row(
        "same_page", "visdoc_retrieval",
        {"image": other.render(draw.glyphs)}, {"image": subject.page.render(draw.glyphs)},
        positive_id=meaning, thought=meaning, answer="page",
    )  # fmt: skip


SAME_TASKS: tuple[Task, ...] = (
    Task("same_scene", "image_retrieval", "image", "image", "one of the pool", draw_scene, _same_scene, near=near),
    Task("same_clip", "video_retrieval", "video", "video", "one of the pool", draw_clip, _same_clip,
         near=near_in_turns),
    Task("same_page", "visdoc_retrieval", "image", "image", "one of the pool", draw_page_query, _same_page,
         near=near_page_query),
)  # fmt: skip

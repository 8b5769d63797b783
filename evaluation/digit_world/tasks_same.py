"""Same meaning, other hand: a scene, a clip or a page is found by what another writer made of it."""

from __future__ import annotations

from .clips import Clip
from .other_hand import rewritten, rewritten_clip, rewritten_page
from .rows import Draw, Example, Task, retrieved
from .scenes import Scene
from .tasks_image import draw_scene, near
from .tasks_other import PageQuery, draw_page_query, near_page_query
from .tasks_video import draw_clip, near_in_turns


def _same_scene(scene: Scene, draw: Draw) -> Example:
    query = {"image": rewritten(scene, draw.glyphs, draw.rng).render(draw.glyphs)}
    return retrieved(query, {"image": scene.render(draw.glyphs)}, scene.caption, "scene")


def _same_clip(clip: Clip, draw: Draw) -> Example:
    query = {"video": rewritten_clip(clip, draw.glyphs, draw.rng).render(draw.glyphs)}
    return retrieved(query, {"video": clip.render(draw.glyphs)}, clip.caption, "clip")


def _same_page(subject: PageQuery, draw: Draw) -> Example:
    query = {"image": rewritten_page(subject.page, draw.glyphs, draw.rng).render(draw.glyphs)}
    return retrieved(query, {"image": subject.page.render(draw.glyphs)}, subject.page.caption, "page")


SAME_TASKS: tuple[Task, ...] = (
    Task("same_scene", "image_retrieval", "image", "image", draw_scene, _same_scene, near=near),
    Task("same_clip", "video_retrieval", "video", "video", draw_clip, _same_clip, near=near_in_turns),
    Task("same_page", "visdoc_retrieval", "image", "image", draw_page_query, _same_page,
         near=near_page_query),
)  # fmt: skip

"""Clip tasks: motion labels, questions, retrieval in both directions, and moments of a longer clip.

Notable: a moment is asked for by motion alone ("when does it move right"), so the text does not name the
digit and both the text and the eight frames are needed to tell the segment from those of other clips.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .clips import MOVES, Actor, Clip, make_clip, near_clip
from .rows import Draw, Example, Task, answered, constant_strata, retrieved
from .scenes import CELLS, other
from .tasks_image import NAMES
from .words import MOTIONS, POSITIONS

CLIP_CHANGES = ("digit", "colour", "motion")
_WHEN = {motion: f"when does it move {motion}" for motion in MOVES} | {
    "still": "when does it stand still",
    "appear": "when does it appear",
}


@dataclass(frozen=True)
class Moment:
    """Two segments of four frames with the same digits in different motion, and which one is asked for."""

    segments: tuple[Clip, Clip]
    asked: int


def _moving(draw: Draw) -> str:
    return MOVES[int(draw.rng.integers(len(MOVES)))]


def _motion(draw: Draw) -> Clip:
    return make_clip(draw.glyphs, draw.rng, motion=MOTIONS[draw.slot])


def _mover(draw: Draw) -> Clip:
    """Two digits, one of which moves; its name is stratum 0..79."""
    return make_clip(draw.glyphs, draw.rng, motion=_moving(draw), name=divmod(draw.slot, 10), actors=2)


def _ender(draw: Draw) -> Clip:
    return make_clip(draw.glyphs, draw.rng, motion=_moving(draw), end=draw.slot)


def draw_clip(draw: Draw) -> Clip:
    return make_clip(draw.glyphs, draw.rng)


def near_in_turns(clip: Clip, turn: int, draw: Draw) -> Clip:
    return near_clip(clip, CLIP_CHANGES[turn % len(CLIP_CHANGES)], draw.glyphs, draw.rng)


def _name_motion(clip: Clip, draw: Draw) -> Example:
    label = clip.actors[0].motion
    query = {"video": clip.render(draw.glyphs)}
    return answered(query, label, clip.caption)


def _name_mover(clip: Clip, draw: Draw) -> Example:
    name = clip.actors[0].name
    query = {"video": clip.render(draw.glyphs), "text": "which digit moves"}
    return answered(query, name, clip.caption)


def _name_end(clip: Clip, draw: Draw) -> Example:
    place = POSITIONS[clip.actors[0].path[-1]]
    query = {"video": clip.render(draw.glyphs), "text": "where does it end"}
    return answered(query, place, clip.caption)


def _find_clip(clip: Clip, draw: Draw) -> Example:
    query, positive = {"text": clip.caption}, {"video": clip.render(draw.glyphs)}
    return retrieved(query, positive, clip.caption, "clip")


def _find_clip_caption(clip: Clip, draw: Draw) -> Example:
    query, positive = {"video": clip.render(draw.glyphs)}, {"text": clip.caption}
    return retrieved(query, positive, clip.caption, "caption")


def _moment(draw: Draw) -> Moment:
    """The second segment starts anywhere; a bystander, if any, stands where neither segment comes."""
    first = make_clip(draw.glyphs, draw.rng, motion=MOTIONS[draw.slot], actors=1).actors[0]
    motion = MOTIONS[other(draw.slot, len(MOTIONS), draw.rng)]
    second = replace(first, motion=motion, start=int(draw.rng.integers(CELLS)))
    extra: tuple[Actor, ...] = ()
    if draw.rng.random() < 0.5:
        free = [cell for cell in range(CELLS) if cell not in first.path + second.path]
        digit = other(first.digit, 10, draw.rng)
        cell = free[int(draw.rng.integers(len(free)))]
        extra = (Actor(digit, int(draw.rng.integers(8)), draw.glyphs.pick(digit, draw.rng), cell, "still"),)
    segments = (Clip((first, *extra)), Clip((second, *extra)))
    if draw.rng.random() < 0.5:
        return Moment((segments[1], segments[0]), 1)
    return Moment(segments, 0)


def _both(moment: Moment) -> list[Moment]:
    return [replace(moment, asked=0), replace(moment, asked=1)]


def _near_moment(moment: Moment, turn: int, draw: Draw) -> Moment:
    """The same two motions of another digit or another colour."""
    changed = near_clip(moment.segments[0], CLIP_CHANGES[turn % 2], draw.glyphs, draw.rng).actors[0]
    actor = moment.segments[1].actors[0]
    second = replace(actor, digit=changed.digit, colour=changed.colour, glyph=changed.glyph)
    rest = moment.segments[0].actors[1:]
    return Moment((Clip((changed, *rest)), Clip((second, *rest))), moment.asked)


def _find_moment(moment: Moment, draw: Draw) -> Example:
    """Query: text and eight frames. Positive: four of them. Negative: the other four."""
    rendered = [segment.render(draw.glyphs) for segment in moment.segments]
    asked = moment.segments[moment.asked]
    query = {"video": rendered[0] + rendered[1], "text": _WHEN[asked.actors[0].motion]}
    positive, negative = {"video": rendered[moment.asked]}, {"video": rendered[1 - moment.asked]}
    which = ("first", "second")[moment.asked]  # which of the two the positive alone can't know
    return replace(retrieved(query, positive, asked.caption, which, negative), positive_answer="clip")


VIDEO_TASKS: tuple[Task, ...] = (
    Task("clip_motion", "video_classification", "video", "text", _motion, _name_motion, labels=MOTIONS,
         strata=constant_strata(len(MOTIONS))),
    Task("clip_mover", "video_qa", "video+text", "text", _mover, _name_mover, labels=NAMES,
         strata=constant_strata(80)),
    Task("clip_end", "video_qa", "video+text", "text", _ender, _name_end, labels=POSITIONS,
         strata=constant_strata(9)),
    Task("retrieve_clip", "video_retrieval", "text", "video", draw_clip, _find_clip, near=near_in_turns),
    Task("retrieve_clip_caption", "video_retrieval", "video", "text", draw_clip, _find_clip_caption,
         near=near_in_turns),
    Task("retrieve_moment", "moment_retrieval", "video+text", "video", _moment, _find_moment,
         strata=constant_strata(len(MOTIONS)), near=_near_moment, group=_both),
)  # fmt: skip

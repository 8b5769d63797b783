"""Image tasks: four label sets, two kinds of questions, retrieval in both directions, and grounding.

Notable: the label sets overlap on purpose ("7" is a digit and may be a count), as merged label sets do in
practice.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from .rows import Draw, Example, Task, answered, constant_strata, retrieved
from .scenes import CELLS, CHANGES, Scene, make_scene, near_scene, other, random_scene
from .words import COLOURS, POSITIONS, RED

CENTRE = 4
COUNTS: tuple[str, ...] = tuple(str(count) for count in range(7))
NAMES: tuple[str, ...] = tuple(f"{colour} {digit}" for colour in COLOURS for digit in range(10))
Spot = tuple[Scene, int]  # a scene and one of its cells


def _centre_digit(draw: Draw) -> tuple[Scene, str]:
    scene = random_scene(draw.glyphs, draw.rng)
    digit = draw.slot
    scene = scene.put(CENTRE, scene.colours[CENTRE], digit, draw.glyphs.pick(digit, draw.rng))
    return scene, str(digit)


def _centre_parity(draw: Draw) -> tuple[Scene, str]:
    scene, _ = _centre_digit(draw)
    return scene, ("even", "odd")[draw.slot % 2]


def _most_frequent(draw: Draw) -> tuple[Scene, str]:
    """The asked colour has 3 to 5 cells, every other colour at most 2."""
    rng = draw.rng
    rest = np.repeat([colour for colour in range(8) if colour != draw.slot], 2)
    count = int(rng.integers(3, 6))
    colours = [draw.slot] * count + rng.permutation(rest)[: CELLS - count].tolist()
    colours = rng.permutation(colours).tolist()
    scene = make_scene(rng.integers(0, 10, CELLS).tolist(), colours, draw.glyphs, rng)
    return scene, COLOURS[draw.slot]


def _red_count(draw: Draw) -> tuple[Scene, str]:
    rng = draw.rng
    rest = [(RED + 1 + int(step)) % 8 for step in rng.integers(0, 7, CELLS - draw.slot)]
    colours = rng.permutation([RED] * draw.slot + rest).tolist()
    return make_scene(rng.integers(0, 10, CELLS).tolist(), colours, draw.glyphs, rng), str(draw.slot)


def _all_then(scene: Scene, last: str) -> str:
    """A thought that reads the whole scene out, then says again what the question is about."""
    return f"{scene.caption} {last}".rstrip()


def _with_centre(scene: Scene) -> str:
    return _all_then(scene, scene.read([CENTRE]))


def _all(scene: Scene) -> str:
    """For what the whole scene answers: to list its cells again is harder than to count them."""
    return scene.caption


def _classify(think: Callable[[Scene], str], subject: tuple[Scene, str], draw: Draw) -> Example:
    scene, label = subject
    query = {"image": scene.render(draw.glyphs)}
    return answered(query, label, think(scene))


def _spot(draw: Draw) -> Spot:
    """A cell whose colour and digit (stratum 0..79) stand nowhere else in the scene."""
    colour, digit = divmod(draw.slot, 10)
    cell = int(draw.rng.integers(CELLS))
    scene = random_scene(draw.glyphs, draw.rng).put(cell, colour, digit, draw.glyphs.pick(digit, draw.rng))
    for place in range(CELLS):
        if place != cell and scene.name(place) == scene.name(cell):
            scene = scene.put(place, other(colour, 8, draw.rng), digit, scene.glyphs[place])
    return scene, cell


def _spot_at(draw: Draw) -> Spot:
    """As `_spot`, with the position as stratum (0..8)."""
    scene, cell = _spot(Draw(draw.rng, draw.glyphs, int(draw.rng.integers(80))))
    return scene.swap(cell, draw.slot), draw.slot


def _ask_what(subject: Spot, draw: Draw) -> Example:
    scene, cell = subject
    query = {"image": scene.render(draw.glyphs), "text": f"what is at {POSITIONS[cell]}"}
    return answered(query, scene.name(cell), _all_then(scene, scene.read([cell])))


def _ask_where(subject: Spot, draw: Draw) -> Example:
    scene, cell = subject
    query = {"image": scene.render(draw.glyphs), "text": f"where is the {scene.name(cell)}"}
    place = POSITIONS[cell]
    return answered(query, place, _all_then(scene, f"{scene.name(cell)} {place}"))


def draw_scene(draw: Draw) -> Scene:
    return random_scene(draw.glyphs, draw.rng)


def near(scene: Scene, turn: int, draw: Draw) -> Scene:
    """A scene that differs in one digit, one colour or one swap, in turns."""
    return near_scene(scene, CHANGES[turn % len(CHANGES)], draw.glyphs, draw.rng)


def _find_scene(scene: Scene, draw: Draw) -> Example:
    query, positive = {"text": scene.caption}, {"image": scene.render(draw.glyphs)}
    return retrieved(query, positive, scene.caption, "scene")


def _find_caption(scene: Scene, draw: Draw) -> Example:
    query, positive = {"image": scene.render(draw.glyphs)}, {"text": scene.caption}
    return retrieved(query, positive, scene.caption, "caption")


def _ground(subject: Spot, draw: Draw) -> Example:
    """Negatives: two other cells of the same scene."""
    scene, cell = subject
    name = scene.name(cell)
    others = draw.rng.permutation([place for place in range(CELLS) if scene.name(place) != name])[:2].tolist()
    query = {"image": scene.render(draw.glyphs), "text": f"the {name}"}
    positive, *negatives = ({"image": scene.crop(place, draw.glyphs)} for place in (cell, *others))
    return Example(query, positive, name, f"{POSITIONS[cell]} {name}", name, negatives)


def _ground_pool(draw: Draw) -> list[Spot]:
    """All 72 cells of eight scenes in which no colour and digit occurs twice."""
    names = draw.rng.permutation(80)[: 8 * CELLS].reshape(8, CELLS)
    scenes = [make_scene((row % 10).tolist(), (row // 10).tolist(), draw.glyphs, draw.rng) for row in names]
    return [(scene, cell) for scene in scenes for cell in range(CELLS)]


def _labelled(
    name: str,
    subject: Callable[[Draw], tuple[Scene, str]],
    think: Callable[[Scene], str],
    labels: tuple[str, ...],
    strata: int,
) -> Task:
    return Task(
        name, "image_classification", "image", "text", subject,
        partial(_classify, think), parallel=True, labels=labels, strata=constant_strata(strata),
    )  # fmt: skip


IMAGE_TASKS: tuple[Task, ...] = (
    _labelled("classify_digit", _centre_digit, _with_centre, tuple(str(digit) for digit in range(10)), 10),
    _labelled("classify_colour", _most_frequent, _all, COLOURS, 8),
    _labelled("classify_count", _red_count, _all, COUNTS, len(COUNTS)),
    _labelled("classify_parity", _centre_parity, _with_centre, ("even", "odd"), 10),
    Task("qa_what", "image_qa", "image+text", "text", _spot, _ask_what, labels=NAMES,
         strata=constant_strata(80)),
    Task("qa_where", "image_qa", "image+text", "text", _spot_at, _ask_where, labels=POSITIONS,
         strata=constant_strata(9)),
    Task("retrieve_scene", "image_retrieval", "text", "image", draw_scene, _find_scene, near=near),
    Task("retrieve_caption", "image_retrieval", "image", "text", draw_scene, _find_caption, near=near),
    Task("ground_cell", "visual_grounding", "image+text", "image", _spot, _ground,
         strata=constant_strata(80), fill=_ground_pool),
)  # fmt: skip

"""Giant pictures are decoded in strips, and not several at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from umekit.processing.limits import Room

PEAK = """
import resource, sys
from concurrent.futures import ThreadPoolExecutor
from umekit.processing.items import ImagePart
from umekit.processing.limits import MediaLimits, ROOM
from umekit.processing.preparing import patches_of
from umekit.processing.settings import ProcessorSettings
from umekit.processing.vision import PatchLayout

def cut(path):
    return patches_of(ImagePart(path), ProcessorSettings(), PatchLayout(), MediaLimits())

small, giant, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
ROOM.pixels = ROOM._free = 40_000_000
with ThreadPoolExecutor(threads) as pool:
    list(pool.map(cut, [small] * threads))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    list(pool.map(cut, [giant] * threads))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_a_giant_costs_little_more_than_its_pixels_however_many_threads_there_are(tmp_path: Path) -> None:
    """6000 x 6000 RGBA: 144 MB as Pillow decodes it, 108 MB as RGB."""
    for name, side in (("small.png", 64), ("giant.png", 6000)):
        Image.new("RGBA", (side, side), (200, 30, 10, 90)).save(tmp_path / name, compress_level=1)
    for threads in (1, 3):
        command = [
            sys.executable,
            "-c",
            PEAK,
            *map(str, (tmp_path / "small.png", tmp_path / "giant.png", threads)),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        assert int(done.stdout) < 6000**2 * (4 + 3) * 1.35, (threads, done.stdout)


def test_room_is_given_in_line_and_given_back() -> None:
    room = Room(pixels=100, least=10)
    most, held, lock = 0, 0, threading.Lock()

    def work(pixels: int) -> None:
        nonlocal most, held
        with room.released():
            room.claim(pixels)
            with lock:
                held += pixels
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= pixels

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [30, 60, 100, 40, 20, 90] * 10))
    assert 60 < most <= 100
    assert room._free == 100


def fail(room: Room) -> None:
    with room.released():
        room.claim(50)
        raise ValueError("a broken file")


def test_who_has_room_never_waits_and_faults_give_it_back() -> None:
    room = Room(pixels=100, least=10)
    with room.released():
        room.claim(9)
        assert room._free == 100  # not worth counting
        room.claim(60)
        with room.released():  # within another
            room.claim(80)
        assert room._free == 20  # for the larger one of both
        room.claim(10**9)
        assert room._free == 0
    assert room._free == 100
    with pytest.raises(ValueError, match="broken"):
        fail(room)
    assert room._free == 100

    both = threading.Barrier(2)

    def work(pixels: int) -> None:
        with room.released():
            room.claim(40)
            both.wait(10)
            room.claim(pixels)  # more than there is, for both

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, [90, 90], timeout=10))
    assert room._free == 100

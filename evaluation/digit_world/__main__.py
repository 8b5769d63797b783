"""`python -m umekit.evaluation.digit_world`: rows per second of each task, and an example of each."""

from __future__ import annotations

from time import perf_counter

from .world import CAPTION_KINDS, TASKS, DigitWorld


def measure(count: int = 300) -> dict[str, float]:
    """Rows per second of every task and caption kind on one core, after the glyph table is built."""
    world = DigitWorld("train")
    speed: dict[str, float] = {}
    for name in TASKS:
        world.row(name, 0)
        began = perf_counter()
        world.rows(name, count, start=1)
        speed[name] = count / (perf_counter() - began)
    for kind in CAPTION_KINDS:
        world.caption(kind, 0)
        began = perf_counter()
        for index in range(1, count + 1):
            world.caption(kind, index)
        speed[f"caption_{kind}"] = count / (perf_counter() - began)
    return speed


def average(speed: dict[str, float]) -> float:
    """Rows per second of an even mix: the harmonic mean."""
    return len(speed) / sum(1 / value for value in speed.values())


def main() -> None:
    """Print the table."""
    speed = measure()
    world = DigitWorld("train")
    for name, value in speed.items():
        example = ""
        if name in TASKS:
            row = world.row(name, 0)
            example = f"{row['query'].get('text', '-')[:44]} => {row['answer']}"
        print(f"{name:22s} {value:8.0f} rows/s   {example}")
    print(f"{'even mix':22s} {average(speed):8.0f} rows/s")


if __name__ == "__main__":
    main()

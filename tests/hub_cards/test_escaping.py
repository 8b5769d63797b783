"""Words of a checkpoint's files are words in its card."""

from __future__ import annotations

from umekit.hub_cards.facts import code, escaped


def test_words_stay_words() -> None:
    assert code("Represent the user's input.") == "`Represent the user's input.`"
    hostile = "a\n---\nlicense: x\n| <script>`x`</script> [a](b) ![c](d) # e"
    for form in (code(hostile), escaped(hostile)):
        assert "\n" not in form
        assert "\\<script\\>" in form
        assert "\\|" in form
        assert "\\[a\\](b)" in form
    assert escaped("5.23.0") == "5.23.0"

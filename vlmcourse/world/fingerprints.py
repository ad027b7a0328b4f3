"""Fingerprints of what fixed stories look, sound and read like, so that no cache goes stale."""

import hashlib
from collections.abc import Callable, Iterable

from vlmcourse.world import language
from vlmcourse.world.story import Story


def fingerprints(
    stories: list[Story],
    styles: Iterable[str],
    shown: Callable[[Story], Iterable[bytes]],
    ask: Callable[[list[Story], int], list[list[language.Question]]],
) -> dict[str, str]:
    """Fingerprint stories as clips and as words, for a manifest.

    Args:
        styles: of captions.
        shown: gives what is seen and heard of a story.
        ask: chooses the questions of stories by a seed.
    """
    clips, words = hashlib.sha256(), hashlib.sha256()
    for story in stories:
        clips.update(story.to_json().encode())
        for part in shown(story):
            clips.update(part)
    asked = ask(stories, 0)
    told = [language.caption(story, style) for story in stories for style in styles]
    words.update(repr((asked, told)).encode())
    return {"clips_made_by": clips.hexdigest(), "words_made_by": words.hexdigest()}

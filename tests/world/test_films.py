"""How films are made, and what a manifest says of that."""

import hashlib
import json

import av
import pytest

from vlmcourse.world import films, language
from vlmcourse.world.dataset import SplitSettings, make_split, verify_split
from vlmcourse.world.story import StorySettings

LIVE = SplitSettings(story=StorySettings(live_sound=True))
WORDS_MADE_BY = {
    False: "2c7f5bc5b8175d610a124139cc1f7d9e90434dac2ea9909203a8f1dde6180f01",
    True: "780378a401e23c545cc7aad9e5b42edfaba0754f275521fd2fdb5314a38c22aa",
}
"""By live sound. Records of trained systems depend on the splits that have these fingerprints."""
TEXTS_OF_TWO = {
    "stories.jsonl": "717519a6304b",
    "conversations.json": "21cf2c83c59a",
    "captions.json": "a43b73d18bd9",
}
"""How the checksums of a validation split of two clips begin."""
DEFAULT_SETTINGS = {
    "story": {
        "duration_s": 8,
        "things": [2, 4],
        "events": [1, 4],
        "sounds": [0, 2],
        "lines": [0, 2],
        "mark_probability": 0.5,
        "live_sound": False,
    },
    "fps": 4.0,
    "width": 64,
    "height": 64,
    "crf": 23,
    "sound": True,
}


def test_the_fingerprint_follows_look_sound_and_words(monkeypatch):
    now = SplitSettings().made_by()
    assert SplitSettings().made_by() == now
    assert LIVE.made_by()["clips_made_by"] != now["clips_made_by"]
    monkeypatch.setattr(films, "render_sound", films.render_frames)
    assert SplitSettings().made_by()["clips_made_by"] != now["clips_made_by"]
    monkeypatch.setattr(language, "caption", lambda story, style: style)
    assert SplitSettings().made_by()["words_made_by"] != now["words_made_by"]


@pytest.mark.parametrize("live", [False, True])
def test_what_the_first_films_tell_stays_as_it_was(live):
    settings = LIVE if live else SplitSettings()
    assert settings.made_by()["words_made_by"] == WORDS_MADE_BY[live]


def test_the_manifest_of_films_says_what_it_always_said(tmp_path):
    made = make_split(tmp_path, "val", 2, workers=1, progress=False)
    assert list(made.manifest) == [
        *("split", "count", "settings", "clips_made_by", "words_made_by"),
        *("seeds", "bytes", "data_checksum", "files"),
    ]
    assert json.dumps(made.manifest["settings"]) == json.dumps(DEFAULT_SETTINGS)
    assert made.manifest["seeds"][0] == 10_000_002
    for name, begins in TEXTS_OF_TWO.items():
        assert hashlib.sha256((made.folder / name).read_bytes()).hexdigest().startswith(begins)


def test_films_of_mixed_lengths_last_what_their_stories_say(tmp_path):
    story = StorySettings(duration_s=(4, 6, 8), events=(1, 4))
    settings = SplitSettings(story=story, width=32, height=32, fps=2)
    made = make_split(tmp_path, "train", 9, settings, workers=1, progress=False)
    assert made.manifest["settings"]["story"]["duration_s"] == [4, 6, 8]
    for clip, told in zip(made.clips, made.stories, strict=True):
        with av.open(str(clip)) as container:
            assert abs(container.duration / av.time_base - told.duration_s) < 0.1
            assert sum(1 for _ in container.decode(video=0)) == 2 * told.duration_s
    assert {told.duration_s for told in made.stories} == {4, 6, 8}
    assert verify_split(made.folder) == {}
    more = make_split(tmp_path, "train", 12, settings, workers=1, progress=False)
    assert more.stories[:9] == made.stories

"""Which stories a split shows: disjoint in seeds, scenes and combinations."""

from dataclasses import replace

import pytest

from vlmcourse.errors import UserError
from vlmcourse.world import splits
from vlmcourse.world.splits import SPLITS, sample_stories, scene_split
from vlmcourse.world.story import is_held_out


def combinations(story):
    return [
        is_held_out(story.things[e.thing].colour, story.things[e.thing].shape, e.action)
        for e in story.events
    ]


def test_held_out_combinations_are_in_every_test_story_and_nowhere_else():
    for split in SPLITS:
        for story in sample_stories(split, 200):
            assert any(combinations(story)) == (split == "test")


def test_splits_share_no_seed_and_no_scene():
    stories = {split: sample_stories(split, 400) for split in SPLITS}
    seeds = [{s.seed for s in stories[split]} for split in SPLITS]
    scenes = [{frozenset(s.things) for s in stories[split]} for split in SPLITS]
    for groups in (seeds, scenes):
        assert sum(map(len, groups)) == len(set.union(*groups))
    assert all(len(s) == 400 for s in seeds)
    assert all(scene_split(s) == split for split in SPLITS for s in stories[split])


def test_the_order_of_things_does_not_change_a_scene():
    story = sample_stories("val", 1)[0]
    assert scene_split(replace(story, things=story.things[::-1])) == "val"


def test_a_larger_count_only_adds_stories():
    assert sample_stories("val", 30)[:10] == sample_stories("val", 10)


@pytest.mark.parametrize(("split", "count"), [("dev", 5), ("train", 0)])
def test_wrong_wishes_are_named(split, count):
    with pytest.raises(UserError, match=r"dev|count"):
        sample_stories(split, count)


def test_running_out_of_seeds_is_said(monkeypatch):
    monkeypatch.setattr(splits, "SEEDS", 20)
    with pytest.raises(UserError, match="is more than the"):
        sample_stories("train", 20)

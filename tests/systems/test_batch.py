import pytest
import torch

from vlmcourse.conversation import IGNORED, TokenRow
from vlmcourse.systems.batch import Media, collate, stack_media, video_features
from vlmcourse.systems.splice import SpliceError, splice

LONG = TokenRow([1, 9, 9, 5, 6], [IGNORED] * 4 + [6], [0, 1, 1, 0, 0])
SHORT = TokenRow([1, 9, 5], [IGNORED, IGNORED, 5], [0, 1, 0])


def test_padding_at_either_side():
    right = collate([LONG, SHORT], pad_id=0)
    assert right.ids.tolist() == [[1, 9, 9, 5, 6], [1, 9, 5, 0, 0]]
    assert right.attention.tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert right.labels[1].tolist() == [IGNORED, IGNORED, 5, IGNORED, IGNORED]
    assert right.segments is None
    left = collate([LONG, SHORT], pad_id=0, side="left", pad_to=7)
    assert left.ids.tolist() == [[0, 0, 1, 9, 9, 5, 6], [0, 0, 0, 0, 1, 9, 5]]
    assert left.attention[:, -1].all()


def test_packed_rows_keep_their_segments():
    packed = TokenRow([1, 9, 5, 6], [IGNORED] * 4, [0, 1, 0, 0], [0, 0, 1, 2])
    batch = collate([packed, SHORT], pad_id=0)
    assert batch.segments.tolist() == [[0, 0, 1, 2], [0, 0, 0, -1]]


def test_stacked_media_are_padded_in_time():
    items = [video_features(torch.ones(2, 4, 3), torch.tensor([0.5, 1.5]))]
    items.append(video_features(torch.ones(3, 4, 3)))
    media = stack_media(items, rows=[0, 0])
    assert media.features.shape == (2, 3, 4, 3)
    assert media.frame_mask.tolist() == [[True, True, False], [True] * 3]
    assert media.times_s[0].tolist() == [0.5, 1.5, 0.0]
    assert not media.features[0, 2].any()
    assert media.rows.tolist() == [0, 0]
    assert media.inputs is None


def test_moving_takes_everything_along():
    extras = {"pooled": torch.ones(1, 2, 3)}
    media = Media(torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 1), extras=extras)
    moved = collate([LONG], 0, media).to("meta")
    assert moved.ids.is_meta
    assert moved.pictures.frame_mask.is_meta
    assert moved.pictures.extras["pooled"].is_meta


def test_one_medium_for_many_rows_shares_its_memory():
    media = video_features(torch.randn(3, 4, 5))
    wide = media.repeat(4)
    assert len(wide) == 4
    assert wide.features.data_ptr() == media.features.data_ptr()
    with pytest.raises(ValueError, match="2 media"):
        stack_media([media, media]).repeat(2)


def test_splice_fills_places_in_reading_order():
    places = torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 1]]).bool()
    tokens = torch.arange(1.0, 10).reshape(3, 3, 1)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 0]]).bool()
    rows = torch.tensor([0, 0, 1])
    out = splice(torch.zeros(2, 5, 1), places, tokens, mask, rows)[..., 0]
    assert out.tolist() == [[0, 1, 0, 4, 5], [7, 0, 0, 0, 8]]


def test_splice_says_which_row_does_not_fit():
    places = torch.tensor([[1, 1], [1, 0]]).bool()
    tokens, mask = torch.ones(2, 2, 1), torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(SpliceError, match="row 1 has 1 places for media, but its media have 2"):
        splice(torch.zeros(2, 2, 1), places, tokens, mask, None)
    with pytest.raises(SpliceError, match="2 media for 1 rows"):
        splice(torch.zeros(1, 2, 1), places[:1], tokens, mask, None)

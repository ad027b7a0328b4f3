"""Frame rules: values worked out by hand, and what must hold for every video."""

import random

import pytest

from vlmcourse.media import sampling

TOTALS = [1, 2, 3, 7, 8, 9, 24, 45, 46, 89, 90, 99, 100, 101, 250, 1799, 18000]
RULES = {
    "uniform": lambda total: sampling.uniform_indices(total, 8),
    "video_chatgpt": sampling.video_chatgpt_indices,
    "video_llama": sampling.video_llama_indices,
    "video_llama_headtail": lambda total: sampling.video_llama_headtail_indices(
        total, 8, random.Random(0)
    ),
    "minigpt4_infer": sampling.minigpt4_video_indices,
    "minigpt4_train": lambda total: sampling.minigpt4_video_indices(total, 45, "train"),
    "minigpt4_tvqa": lambda total: sampling.minigpt4_video_indices(total, 90, "tvqa"),
    "cogvlm2_base": lambda total: sampling.cogvlm2_video_base_indices(total, 25.0),
    "cogvlm2_chat": lambda total: sampling.cogvlm2_video_chat_indices(
        [frame / 25 for frame in range(total)]
    ),
    "chat_univi": lambda total: sampling.chat_univi_indices(total, 29.97),
    "ma_lmm_test": lambda total: sampling.ma_lmm_test_indices(total, 20),
    "ma_lmm_train": lambda total: sampling.ma_lmm_train_indices(total, 20, random.Random(0)),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("total", TOTALS)
def test_every_rule_stays_in_the_video_and_in_order(name, total):
    indices = RULES[name](total)
    assert indices == sorted(indices)
    assert all(type(index) is int and 0 <= index < total for index in indices)
    if name != "video_llama_headtail":
        assert indices


@pytest.mark.parametrize(
    "rule",
    [
        lambda: sampling.uniform_indices(0, 8),
        lambda: sampling.video_chatgpt_indices(0),
        lambda: sampling.video_llama_indices(10, 0),
        lambda: sampling.minigpt4_video_indices(0),
        lambda: sampling.cogvlm2_video_chat_indices([]),
        lambda: sampling.qwen2_vl_indices(0, 2),
    ],
)
def test_nothing_to_choose_from(rule):
    with pytest.raises(ValueError, match="at least 1"):
        rule()


def test_uniform():
    assert sampling.uniform_indices(100, 4) == [12, 37, 62, 87]
    assert sampling.uniform_indices(4, 4) == [0, 1, 2, 3]
    assert sampling.uniform_indices(2, 4) == [0, 0, 1, 1]


def test_video_chatgpt_short_videos_skip_the_last_frame():
    assert sampling.video_chatgpt_indices(8) == [0, 1, 2, 3, 4, 4, 5, 6]
    hundred = sampling.video_chatgpt_indices(100)
    assert (hundred.count(50), hundred[-1], len(hundred)) == (2, 98, 100)


def test_video_chatgpt_rounds_half_to_even():
    # Segments of 1.5 frames: borders 0, 1.5 -> 2, 3, 4.5 -> 4, 6.
    assert sampling.video_chatgpt_segment_middles(7, 4) == [1, 2, 3, 5]


def test_video_llama_official_float_step():
    assert sampling.video_llama_indices(17, 7) == [0, 2, 4, 7, 9, 12, 14]
    assert sampling.video_llama_indices(17, 7, official=True) == [0, 2, 4, 7, 9, 12, 14, 17]
    for total in range(1, 3000):
        eight = sampling.video_llama_indices(total)
        assert eight == sampling.video_llama_indices(total, official=True)


def test_video_llama_headtail_takes_half_from_each_half():
    indices = sampling.video_llama_headtail_indices(100, 8, random.Random(1))
    assert len(set(indices)) == 8
    assert sum(index < 50 for index in indices) == 4
    assert indices != sampling.video_llama_headtail_indices(100, 8, random.Random(2))
    assert indices == sampling.video_llama_headtail_indices(100, 8, random.Random(1))


def test_video_llama_seconds():
    assert sampling.video_llama_seconds([0, 12, 25], 25.0) == ["0.0", "0.5", "1.0"]


def test_minigpt4_loses_the_tail():
    assert sampling.minigpt4_video_indices(89) == list(range(45))
    assert sampling.minigpt4_video_indices(90) == list(range(0, 90, 2))
    assert sampling.minigpt4_video_total(10.01, 29.97) == 299


def test_minigpt4_modes():
    assert sampling.minigpt4_video_indices(3, 5) == [0, 1, 2]
    assert sampling.minigpt4_video_indices(3, 5, "train") == [0, 1, 2, 2, 2]
    assert sampling.minigpt4_video_indices(8, 5, "tvqa") == [0, 2, 4, 6, 6]  # 1.6 is rounded
    assert sampling.minigpt4_video_indices(8, 5, "train") == [0, 1, 2, 3, 4]  # 1.6 is cut
    assert sampling.minigpt4_video_indices(10, 5, decodable=7) == [0, 2, 4, 6]
    with pytest.raises(ValueError, match="mode"):
        sampling.minigpt4_video_indices(8, 5, "test")


def test_cogvlm2_base_sees_one_minute_at_most():
    long = sampling.cogvlm2_video_base_indices(10_000, 25.0)
    assert (long[0], long[-1], len(long)) == (0, 1499, 24)
    assert sampling.cogvlm2_video_base_indices(3, 25.0, 5) == [0, 0, 1, 1, 2]
    assert sampling.cogvlm2_video_base_indices(5, 0.001, 2) == [0, 0]  # a window without a frame


def test_cogvlm2_chat_is_one_a_second():
    assert sampling.cogvlm2_video_chat_indices([0.0, 0.5, 1.0, 1.5]) == [0, 2, 3]
    uneven = [0, 0.4, 0.9, 1.1, 3.4]
    assert sampling.cogvlm2_video_chat_indices(uneven) == [0, 2, 3, 4]
    assert len(sampling.cogvlm2_video_chat_indices([frame / 2 for frame in range(200)])) == 24


def test_qwen2_vl_number_of_frames():
    assert sampling.qwen2_vl_num_frames(300, 30.0) == 20
    assert sampling.qwen2_vl_num_frames(30, 30.0) == 4  # the least
    assert sampling.qwen2_vl_num_frames(3, 30.0) == 2  # not more than there are, and even
    assert sampling.qwen2_vl_num_frames(30_000, 30.0) == 768  # the most
    assert sampling.qwen2_vl_num_frames(300, 30.0, max_frames=15) == 14
    assert sampling.qwen2_vl_num_frames(300, 30.0, nframes=7) == 8
    assert sampling.qwen2_vl_num_frames(300, 30.0, fps=0.5) == 4
    for bad in ({"total": 1}, {"total": 5, "nframes": 8}, {"total": 5, "min_frames": 8}):
        with pytest.raises(ValueError, match="frames asked"):
            sampling.qwen2_vl_num_frames(
                bad.pop("total"), 30.0, **({"max_frames": 64} if "min_frames" in bad else {}), **bad
            )


def test_qwen2_vl_indices():
    assert sampling.qwen2_vl_indices(10, 4) == [0, 3, 6, 9]
    assert sampling.qwen2_vl_indices(6, 3) == [0, 2, 5]  # 2.5 goes to the even side


def test_chat_univi():
    assert sampling.chat_univi_indices(100, 29.97) == [0, 30, 60, 90]
    many = sampling.chat_univi_indices(3000, 30.0, 64)
    assert (many[0], many[-1], len(many)) == (0, 2970, 64)
    assert all(index % 30 == 0 for index in many)
    assert sampling.chat_univi_indices(3, 0.2) == [0, 1, 2]


def test_ma_lmm():
    assert sampling.ma_lmm_test_indices(10, 4) == [0, 3, 6, 9]
    for seed in range(20):
        train = sampling.ma_lmm_train_indices(40, 4, random.Random(seed))
        assert [index // 10 for index in train] == [0, 1, 2, 3]
    assert sampling.ma_lmm_train_indices(2, 4, random.Random(0)) == [0, 0, 1, 1]


def test_ma_lmm_windows():
    assert sampling.ma_lmm_windows(140) == [(0, 99), (20, 119), (40, 139)]
    assert sampling.ma_lmm_windows(60) == [(0, 60)]
    assert sampling.ma_lmm_window_indices((20, 119), 2000, 3) == [200, 695, 1190]
    assert sampling.ma_lmm_window_indices((20, 119), 500, 3) == [200, 350, 499]

"""A film that passes by: the same answers as from the whole film, and memory that does not grow."""

import pytest
import torch
from tiny_ma_lmm import build_tiny, features_of

from vlmcourse.errors import UserError
from vlmcourse.systems.ma_lmm_stream import Stream

torch.set_num_threads(1)

QUESTION, OTHER = "what happens first ?", "how many things are there ?"


def passed(model, features, questions=()):
    stream = Stream(model, questions)
    for frame in features:
        stream.see_features(frame[None])
    return stream


def whole(model, features, clip, question):
    media, _ = model.question_media(model.remember(features, clip), [question])
    told = (media.extras["instruction"], media.extras["instruction_mask"])
    return model.read_frames(media.features, media.frame_mask, *told)


@pytest.mark.parametrize(
    "settings",
    [{}, {"merging": "fifo"}, {"query_memory": 0}, {"visual_memory": 0}, {"merging": "none"}],
)
@pytest.mark.parametrize("frames", [1, 2, 9])
def test_standing_questions_read_what_the_whole_film_gives(settings, frames):
    model = build_tiny(**settings)
    features, clip = features_of(model, frames)
    stream = passed(model, features, (QUESTION, OTHER))
    for question in (QUESTION, OTHER):
        wanted = whole(model, features, clip, question)
        torch.testing.assert_close(stream.read(question), wanted)


def test_a_late_question_is_the_same_until_something_was_merged():
    model = build_tiny(visual_memory=3, query_memory=3)
    for frames in (1, 4, 5):
        features, clip = features_of(model, frames)
        wanted = whole(model, features, clip, QUESTION)
        late = passed(model, features).read(QUESTION)
        same = torch.allclose(late, wanted, atol=1e-5)
        assert same is (frames <= 4)


def test_answers_are_those_about_the_whole_film_at_any_time():
    model = build_tiny(visual_memory=3, query_memory=3)
    features, clip = features_of(model, 4)
    stream = Stream(model, (QUESTION,))
    for count, frame in enumerate(features, start=1):
        stream.see_features(frame[None])
        watched = model.remember(features[:count], clip)
        for question in (QUESTION, OTHER):
            assert (
                stream.ask(question, max_new_tokens=5)
                == (model.answer(watched, [question], max_new_tokens=5)[0])
            )


def test_memory_is_flat_once_the_banks_are_full():
    model = build_tiny()
    features, _ = features_of(model, 40)
    for questions in ((), (QUESTION, OTHER)):
        stream, sizes = Stream(model, questions), []
        for frame in features:
            stream.see_features(frame[None])
            sizes.append(stream.memory_bytes())
        assert len(set(sizes[3:])) == 1
        assert sizes[0] < sizes[3]
    grows = build_tiny(merging="none")
    assert passed(grows, features).memory_bytes() > 10 * passed(grows, features[:2]).memory_bytes()


def test_questions_leave_nothing_behind():
    model = build_tiny()
    features, _ = features_of(model, 6)
    stream, quiet = Stream(model), Stream(model)
    for frame in features:
        for one in (stream, quiet):
            one.see_features(frame[None])
        stream.ask(QUESTION, max_new_tokens=2)
    assert stream.memory_bytes() == quiet.memory_bytes()
    assert stream.read(OTHER).equal(quiet.read(OTHER))


def test_frames_are_encoded_as_a_file_s_are():
    model = build_tiny()
    frames = torch.randint(0, 256, (5, 16, 16, 3), dtype=torch.uint8)
    features = model.encode_frames(model.vision_encoder.preprocess(frames))
    stream = Stream(model)
    for frame in frames.numpy():
        stream.see(frame)
    assert stream.frames_seen == 5
    torch.testing.assert_close(stream.read(QUESTION), passed(model, features).read(QUESTION))


def test_what_cannot_be_asked_is_told():
    with pytest.raises(UserError, match="no frame has been seen yet"):
        Stream(build_tiny()).ask(QUESTION)
    with pytest.raises(UserError, match="needs the reader 'memory', not 'average'"):
        Stream(build_tiny(reader="average"))

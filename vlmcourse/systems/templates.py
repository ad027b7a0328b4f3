"""Templates that systems share: how a language model was taught to see roles."""

from vlmcourse.conversation import Special, Template, Text


def vicuna_template(
    name: str,
    system: str,
    roles: tuple[str, str] = ("USER", "ASSISTANT"),
    blank: str = " ",
    end: str = "</s>",
) -> Template:
    """`SYSTEM USER: text ASSISTANT: answer</s>USER: ...`, the form of Vicuna 1.1."""
    return Template(
        name=name,
        start=(Special("<s>"), Text(system + blank)),
        before_user=(Text(roles[0] + ": "),),
        after_user=(Text(blank),),
        before_answer=(Text(roles[1] + ":"),),
        answer_lead=" ",
        after_answer=(Special(end, trained=True),),
    )


VICUNA_TEMPLATE = vicuna_template(
    "vicuna_v1_1",
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions.",
)
"""Vicuna 1.1; Video-ChatGPT and Chat-UniVi were trained with it."""

VIDEO_CHATGPT_TEMPLATE = vicuna_template(
    "video-chatgpt_v1",
    "You are Video-ChatGPT, a large vision-language assistant. You are able to understand the "
    "video content that the user provides, and assist the user with a variety of tasks using "
    "natural language.Follow the instructions carefully and explain your answers in detail based "
    "on the provided video.",
)
"""What the official inference of Video-ChatGPT uses, though it was trained with the one above; no
blank stands in front of its last sentence. Official: video_chatgpt/video_conversation.py."""

CAPTION_REQUESTS = (
    "Describe this image in detail.",
    "Take a look at this image and describe what you notice.",
    "Please provide a detailed description of the picture.",
    "Could you describe the contents of this image for me?",
)
"""What stands before MiniGPT-4's captions, one at random; Video-LLaMA and MiniGPT4-video train on
them too. Official: DAMO-NLP-SG/Video-LLaMA@64888c0:prompts/alignment_image.txt."""

WORLD_TEMPLATE = Template(
    name="world",
    start=(Special("<s>"),),
    before_user=(Special("USER:"),),
    after_user=(),
    before_answer=(Special("ASSISTANT:"),),
    answer_lead="",
    after_answer=(Special("</s>", trained=True),),
    media_first=True,
)
"""The small language model learnt `<s> DESCRIPTION USER: question ASSISTANT: answer </s>`: the
video takes the description's place."""

import pytest
from transformers import AutoTokenizer

from capo.shapes.build.tokenizers import (
    NO,
    PROMPT_LENGTH,
    QUESTION,
    QUESTION_LENGTH,
    YES,
    clip_tokenizer,
    question_tokenizer,
)
from capo.shapes.grammar import SPLITS, grammar

TEXTS = [spec.text for split in SPLITS for of_it in grammar(split).values() for spec in of_it]
WORDS = sorted({word for text in TEXTS for word in text.split()})


@pytest.fixture(scope="module")
def clip():
    return clip_tokenizer()


@pytest.fixture(scope="module")
def questions():
    return question_tokenizer()


def test_every_word_of_the_grammar_is_one_token(clip, questions):
    assert {word: len(clip.tokenize(word)) for word in WORDS} == dict.fromkeys(WORDS, 1)
    assert {word: len(questions.tokenize(f" {word}")) for word in WORDS} == dict.fromkeys(WORDS, 1)
    assert [len(questions(answer).input_ids) for answer in (YES, NO)] == [1, 1]


def test_no_prompt_is_truncated(clip, questions):
    assert clip.model_max_length == PROMPT_LENGTH
    assert max(map(len, clip(TEXTS).input_ids)) <= PROMPT_LENGTH
    question = questions([QUESTION.format(prompt=text) for text in TEXTS]).input_ids
    assert questions.model_max_length == QUESTION_LENGTH
    assert max(map(len, question)) < QUESTION_LENGTH  # the answer follows


def test_prompts_have_the_special_tokens_and_padding_of_clip(clip):
    start, circle, end = clip("circle").input_ids
    assert (start, end) == (clip.bos_token_id, clip.eos_token_id) == (len(clip) - 2, len(clip) - 1)
    padded = clip("circle", padding="max_length").input_ids
    assert padded == [start, circle] + [end] * (PROMPT_LENGTH - 2)


def test_questions_are_padded_on_the_right(questions):
    texts = [QUESTION.format(prompt=prompt) for prompt in ("a circle", "a red circle")]
    short, long = questions(texts, padding=True).input_ids
    assert short[-1] == questions.pad_token_id != long[-1] == short[-2]


def test_an_answer_is_one_token_after_the_question(questions):
    question = QUESTION.format(prompt="a red circle")
    for answer in (YES, NO):
        assert (
            questions(question + answer).input_ids
            == questions(question).input_ids + questions(answer).input_ids
        )


def test_any_text_round_trips(clip, questions):
    text = "Zwölf 'odd' fish, <|odd|> 🐟!"
    assert questions.decode(questions(text).input_ids) == text
    assert clip.unk_token_id not in clip(text).input_ids[1:-1]


@pytest.mark.parametrize("name", ["clip", "questions"])
def test_saving_and_loading_changes_nothing(name, tmp_path, request):
    tokenizer = request.getfixturevalue(name)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    sample = [*TEXTS[::40], *(QUESTION.format(prompt=text) for text in TEXTS[::400])]
    assert loaded(sample).input_ids == tokenizer(sample).input_ids
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert (loaded.padding_side, loaded.model_max_length) == (
        tokenizer.padding_side,
        tokenizer.model_max_length,
    )

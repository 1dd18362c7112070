from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from ctxtune.data.encode import (
    Encoded,
    EncodeSpec,
    TooLong,
    encode_choices,
    encode_pair,
    encode_rows,
)
from ctxtune.data.read import Row
from ctxtune.data.render import compile_template
from ctxtune.data.windows import encode_text_windows
from ctxtune.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerFast

LONG = 1 << 20


def harness_request(tokenizer: Any, context: str, continuation: str, max_length: int) -> tuple[list[int], list[int]]:
    """lm-evaluation-harness by hand: what is fed and what is scored (TemplateLM.loglikelihood, HFLM.tok_encode)."""
    prefix = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id

    def tok(text: str, **options: Any) -> list[int]:
        if not options and text.startswith(tokenizer.decode([prefix])):
            options = {"add_special_tokens": False}
        return list(tokenizer.encode(text, **options))

    if context == "":
        continued = tok(continuation, add_special_tokens=False)
        start, continued = ([prefix], continued) if continued[0] != prefix else (continued[:1], continued[1:])
    else:
        spaces = len(context) - len(context.rstrip())
        if spaces > 0:
            continuation = context[-spaces:] + continuation
            context = context[:-spaces]
        whole, start = tok(context + continuation), tok(context)
        continued = whole[len(start) :]
    return (start + continued)[-(max_length + 1) :][:-1], continued


def check_against_harness(one: Encoded | None, expected: tuple[list[int], list[int]]) -> None:
    fed, continued = expected
    assert one is not None
    assert list(one.ids) == fed
    assert list(one.labels) == continued
    assert list(one.rows) == list(range(len(fed) - len(continued), len(fed)))  # the last rows, as logits[-contlen:]


PIECES = ["Review:", " a fine film", " dull", "\n", " ", "  ", ".", "Sentiment:", "ß", "日本", "😀", "</s>", "'s"]


@pytest.mark.parametrize("max_length", [LONG, 6])
def test_requests_are_those_of_the_harness(causal: PreTrainedTokenizerFast, max_length: int) -> None:
    chance = random.Random(5)
    checked = 0
    for _ in range(300):
        prompt = "".join(chance.choices(PIECES, k=chance.randint(0, 7)))
        if prompt and not prompt.strip():
            continue  # the harness cannot take a prompt of white space alone
        answer = "".join(chance.choices(PIECES, k=chance.randint(1, 2))).strip() or "yes"
        delimiter = " " if prompt and not prompt[-1].isspace() else ""
        expected = harness_request(causal, prompt, delimiter + answer, max_length)
        if len(expected[1]) > max_length or not expected[1]:
            continue
        one = encode_pair(
            causal, prompt, answer, delimiter=" ", kind="causal", max_length=max_length, on_long="truncate"
        )
        check_against_harness(one, expected)
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("prompt", "answer", "delimiter"),
    [
        ("Review: good\nSentiment:", "positive", " "),
        ("Review: good\nSentiment: ", "positive", ""),
        ("Q:\n\n", "yes", ""),
        ("the qui", "ck brown fox jumps over", ""),  # tokens merge across the border
        ("<s>the quick", "fox", " "),  # BOS stands in the text: no second one
        ("</s>the quick", "fox", " "),
        ("", "fox", ""),
        ("", "<s>fox", ""),
    ],
)
def test_borders_are_those_of_the_harness(
    causal: PreTrainedTokenizerFast, prompt: str, answer: str, delimiter: str
) -> None:
    one = encode_pair(causal, prompt, answer, delimiter=delimiter, kind="causal", max_length=LONG)
    check_against_harness(one, harness_request(causal, prompt, delimiter + answer, LONG))


def test_the_last_answer_token_is_not_fed_and_each_label_has_its_row(gpt: PreTrainedTokenizerFast) -> None:
    one = encode_pair(gpt, "the quick", "brown fox", delimiter=" ", kind="causal", max_length=LONG)
    whole = gpt.encode("the quick brown fox")
    assert one is not None
    assert one.ids == tuple(whole[:-1])
    assert [whole[row + 1] for row in one.rows] == list(one.labels)
    assert gpt.decode(one.labels) == " brown fox"


def test_a_bos_by_default_comes_first_once(llama: PreTrainedTokenizerFast) -> None:
    bos = llama.bos_token_id
    for prompt in ("the quick", "<s>the quick", "", " "):
        one = encode_pair(llama, prompt, "fox", delimiter=" ", kind="causal", max_length=LONG)
        assert one is not None
        assert one.ids.count(bos) == 1
        assert one.ids[0] == bos


def test_no_delimiter_after_nothing_or_after_white_space(gpt: PreTrainedTokenizerFast) -> None:
    for prompt in ("", "Q:\n", "Q: "):
        with_one, without = (
            encode_pair(gpt, prompt, "fox", delimiter=delimiter, kind="causal", max_length=LONG)
            for delimiter in (" ", "")
        )
        assert with_one == without


def test_free_answers_end_with_the_end_of_text(causal: PreTrainedTokenizerFast) -> None:
    bare = encode_pair(causal, "the quick", "fox", delimiter=" ", kind="causal", max_length=LONG)
    ended = encode_pair(causal, "the quick", "fox", delimiter=" ", kind="causal", max_length=LONG, end=True)
    assert bare is not None
    assert ended is not None
    assert ended.labels == (*bare.labels, causal.eos_token_id)
    assert ended.ids == (*bare.ids, bare.labels[-1])
    assert ended.rows == (*bare.rows, bare.rows[-1] + 1)


def test_what_stands_behind_a_text_by_default_is_no_answer(bert: PreTrainedTokenizerFast) -> None:
    one = encode_pair(bert, "the quick brown", "fox", delimiter=" ", kind="causal", max_length=LONG)
    content = bert.encode("the quick brown fox", add_special_tokens=False)
    assert one is not None
    assert (*one.ids, one.labels[-1]) == (bert.cls_token_id, *content)
    assert bert.decode(one.labels).replace(" ", "") == "fox"


@pytest.mark.parametrize("prompt", ["Review: good. It was", "Review: good. It was ", "It was\n\n", ""])
@pytest.mark.parametrize("answer", ["great", "terrible", "GREAT", "good, bad"])
def test_a_masked_model_predicts_the_answer_in_place(bert: PreTrainedTokenizerFast, prompt: str, answer: str) -> None:
    one = encode_pair(bert, prompt, answer, delimiter=" ", kind="masked", max_length=LONG)
    assert one is not None
    asked = bert.encode(prompt, add_special_tokens=False)
    said = bert.encode(answer, add_special_tokens=False)
    mask = [bert.mask_token_id] * len(said)
    assert one.ids == (bert.cls_token_id, *asked, *mask, bert.sep_token_id)
    assert one.labels == tuple(said)
    assert one.rows == tuple(range(1 + len(asked), 1 + len(asked) + len(said)))


def test_a_masked_answer_that_merges_with_its_prompt_is_masked_with_it(bert: PreTrainedTokenizerFast) -> None:
    one = encode_pair(bert, "it was gr", "eat", delimiter="", kind="masked", max_length=LONG)
    assert one is not None
    assert bert.encode("it was great", add_special_tokens=False)[-len(one.labels) :] == list(one.labels)
    assert [one.ids[row] for row in one.rows] == [bert.mask_token_id] * len(one.labels)
    apart = encode_pair(bert, "it was.", "great", delimiter="", kind="masked", max_length=LONG)
    assert apart == encode_pair(bert, "it was.", "great", delimiter=" ", kind="masked", max_length=LONG)


def test_truncation_cuts_the_prompt_and_keeps_the_special_tokens_of_a_masked_model(
    bert: PreTrainedTokenizerFast,
) -> None:
    whole = encode_pair(bert, "the quick brown fox. It was", "great", delimiter=" ", kind="masked", max_length=LONG)
    assert whole is not None
    size = len(whole.ids) - 3
    cut = encode_pair(
        bert, "the quick brown fox. It was", "great", delimiter=" ", kind="masked", max_length=size, on_long="truncate"
    )
    assert cut == Encoded((whole.ids[0], *whole.ids[4:]), tuple(row - 3 for row in whole.rows), whole.labels)


def test_too_long_is_an_error_or_dropped_and_the_answer_is_never_cut(gpt: PreTrainedTokenizerFast) -> None:
    def pair(max_length: int, on_long: Any, answer: str = "fox") -> Encoded | None:
        return encode_pair(
            gpt, "the quick", answer, delimiter=" ", kind="causal", max_length=max_length, on_long=on_long
        )

    whole = pair(LONG, "error")
    assert whole is not None
    size = len(whole.ids)
    assert pair(size, "error") == pair(size, "drop") == pair(size, "truncate") == whole
    with pytest.raises(TooLong, match=f"{size} tokens are more than {size - 1}"):
        pair(size - 1, "error")
    assert pair(size - 1, "drop") is None
    needed = len(whole.labels)
    shortest = pair(needed, "truncate")
    assert shortest is not None
    assert (shortest.labels, shortest.rows) == (whole.labels, tuple(range(needed)))
    with pytest.raises(TooLong, match="the answer alone has"):
        pair(2, "truncate", "the quick brown fox jumps over it")


def test_an_answer_that_disappears_is_an_error(gpt: PreTrainedTokenizerFast) -> None:
    class Swallowing:
        bos_token_id = eos_token_id = 0
        mask_token_id = None

        def __call__(self, text: Any, **options: Any) -> dict[str, Any]:
            """Every text is one token."""
            return {"input_ids": [[1] for _ in text] if isinstance(text, list) else [1]}

    with pytest.raises(DataError, match="the answer 'b': no supervised tokens"):
        encode_pair(Swallowing(), "a", "b", delimiter=" ", kind="causal", max_length=9)
    spec = spec_of(Swallowing())
    with pytest.raises(DataError, match=r"train\.csv line 2: no supervised tokens"):
        encode_rows(ROWS, spec)
    with pytest.raises(DataError, match=r"train\.csv line 2: no supervised tokens"):
        encode_choices(ROWS, spec)
    with pytest.raises(DataError, match="no supervised tokens"):  # the end of the text alone is no answer
        encode_pair(Swallowing(), "a", "b", delimiter=" ", kind="causal", max_length=9, end=True)


ROWS = [
    Row({"text": "a fine film", "label": "positive"}, "train.csv", 2),
    Row({"text": "dull, " * 30, "label": "negative"}, "train.csv", 3),
    Row({"text": "", "label": "positive"}, "train.csv", 34),
]


def spec_of(tokenizer: Any, **changes: Any) -> EncodeSpec:
    values: dict[str, Any] = {
        "tokenizer": tokenizer,
        "kind": "causal",
        "prompt": compile_template("Review: {{ text }}\nSentiment:", "data.prompt"),
        "answer": compile_template("{{ label }}", "data.answer"),
        "choices": ("negative", "positive"),
        "max_length": LONG,
    }
    return EncodeSpec(**{**values, **changes})


def singly(rows: Sequence[Row], tokenizer: Any, **options: Any) -> list[Encoded | None]:
    return [
        encode_pair(
            tokenizer, f"Review: {row.fields['text']}\nSentiment:", str(row.fields["label"]),
            delimiter=" ", kind="causal", max_length=LONG, **options,
        )
        for row in rows
    ]  # fmt: skip


def test_rows_are_encoded_as_pairs_are(causal: PreTrainedTokenizerFast) -> None:
    rows = [Row({**ROWS[i % 3].fields, "text": f"film {i}"}, "f", i + 1) for i in range(1500)]  # more than one call
    done = encode_rows(rows, spec_of(causal))
    assert done.examples == singly(rows, causal)
    assert done.row_of == rows
    assert (done.dropped, done.truncated) == (0, 0)
    assert done.tokens == sum(len(one.ids) for one in done.examples)
    assert done.supervised_tokens == sum(len(one.labels) for one in done.examples)


def test_free_rows_end_with_the_end_of_text_but_not_in_a_masked_model(
    gpt: PreTrainedTokenizerFast, bert: PreTrainedTokenizerFast
) -> None:
    assert encode_rows(ROWS, spec_of(gpt, choices=None)).examples == singly(ROWS, gpt, end=True)
    free = encode_rows(ROWS, spec_of(bert, choices=None, kind="masked")).examples
    assert free == encode_rows(ROWS, spec_of(bert, kind="masked")).examples


def test_the_instruction_stands_before_the_prompt(gpt: PreTrainedTokenizerFast) -> None:
    (one,) = encode_rows(ROWS[:1], spec_of(gpt, instruction="Judge this.\n\n")).examples
    assert gpt.decode(one.ids).startswith("Judge this.\n\nReview: a fine film")


def test_long_rows(gpt: PreTrainedTokenizerFast) -> None:
    sizes = [len(one.ids) for one in encode_rows(ROWS, spec_of(gpt)).examples]
    limit = max(sizes[0], sizes[2])
    assert sizes[1] > limit
    with pytest.raises(DataError, match=rf"train\.csv line 3: {sizes[1]} tokens are more than {limit}") as caught:
        encode_rows(ROWS, spec_of(gpt, max_length=limit))
    assert caught.value.hint is not None
    assert "truncate" in caught.value.hint
    dropped = encode_rows(ROWS, spec_of(gpt, max_length=limit, on_long="drop"))
    assert (dropped.row_of, dropped.dropped, dropped.truncated) == ([ROWS[0], ROWS[2]], 1, 0)
    cut = encode_rows(ROWS, spec_of(gpt, max_length=limit, on_long="truncate"))
    assert (len(cut.examples), cut.dropped, cut.truncated) == (3, 0, 1)
    assert len(cut.examples[1].ids) == limit
    with pytest.raises(DataError, match=r"train\.csv line 2: the answer alone has"):
        encode_rows(ROWS, spec_of(gpt, max_length=1, on_long="truncate", choices=None))


def test_choices_are_requests_and_texts_without_the_delimiter(causal: PreTrainedTokenizerFast) -> None:
    choices = ("negative", "schön gut", "positive")
    done = encode_choices(ROWS, spec_of(causal, choices=choices))
    assert done.gold == [2, 0, 2]
    assert done.choices == [choices] * 3  # their lengths in characters and bytes divide in acc_norm and acc_bytes
    for row, requests in zip(ROWS, done.requests, strict=True):
        context = f"Review: {row.fields['text']}\nSentiment:"
        for choice, request in zip(choices, requests, strict=True):
            check_against_harness(request, harness_request(causal, context, f" {choice}", LONG))
    assert done.tokens == sum(len(request.ids) for requests in done.requests for request in requests)


OWN = [
    Row({"text": "Which is wet?", "choices": ["fog", "a stone", "the moon"], "label": 0}, "arc.jsonl", 1),
    Row({"text": "Which is\nhot? " * 9, "choices": ["ice", "fire"], "label": 1}, "arc.jsonl", 2),
    Row({"text": "", "choices": ["schön", "b", "c", "the quick brown fox"], "label": 3}, "arc.jsonl", 3),
]


def own_spec(tokenizer: Any, **changes: Any) -> EncodeSpec:
    return spec_of(tokenizer, choices=compile_template("{{ choices }}", "data.choices"), **changes)


def test_rows_bring_their_own_choices(causal: PreTrainedTokenizerFast) -> None:
    done = encode_choices(OWN, own_spec(causal))
    assert done.gold == [0, 1, 3]
    assert done.choices == [tuple(row.fields["choices"]) for row in OWN]  # type: ignore[arg-type]
    for row, texts, requests in zip(OWN, done.choices, done.requests, strict=True):
        for text, request in zip(texts, requests, strict=True):
            context = f"Review: {row.fields['text']}\nSentiment:"
            check_against_harness(request, harness_request(causal, context, f" {text}", LONG))


def test_the_right_one_of_its_own_choices_is_learned(causal: PreTrainedTokenizerFast) -> None:
    done = encode_rows(OWN, own_spec(causal))
    scored = encode_choices(OWN, own_spec(causal))
    assert done.examples == [requests[right] for requests, right in zip(scored.requests, scored.gold, strict=True)]
    assert [causal.decode(one.labels) for one in done.examples] == [" fog", " fire", " the quick brown fox"]


def test_long_rows_with_their_own_choices(gpt: PreTrainedTokenizerFast) -> None:
    limit = max(len(one.ids) for one in encode_choices([OWN[0], OWN[2]], own_spec(gpt)).requests[0])
    dropped = encode_choices(OWN[:2], own_spec(gpt, max_length=limit, on_long="drop"))
    assert (dropped.row_of, dropped.choices, dropped.dropped) == ([OWN[0]], [("fog", "a stone", "the moon")], 1)
    cut = encode_choices(OWN[:2], own_spec(gpt, max_length=limit, on_long="truncate"))
    assert (cut.truncated, [len(requests) for requests in cut.requests]) == (1, [3, 2])
    with pytest.raises(DataError, match=r"arc\.jsonl line 2: \d+ tokens are more than"):
        encode_choices(OWN[:2], own_spec(gpt, max_length=limit))


def test_a_row_is_dropped_with_all_its_choices(gpt: PreTrainedTokenizerFast) -> None:
    limit = max(len(one.ids) for one in encode_choices(ROWS[:1], spec_of(gpt)).requests[0])
    done = encode_choices(ROWS, spec_of(gpt, max_length=limit, on_long="drop"))
    assert (len(done.requests), done.dropped, done.row_of) == (2, 1, [ROWS[0], ROWS[2]])
    cut = encode_choices(ROWS, spec_of(gpt, max_length=limit, on_long="truncate"))
    assert (len(cut.requests), cut.truncated) == (3, 1)
    assert all(len(request.ids) <= limit for request in cut.requests[1])


def test_a_wrong_label_is_named_while_encoding(gpt: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"f line 9: the answer 'good' is none of the choices"):
        encode_rows([Row({"text": "a", "label": "good"}, "f", 9)], spec_of(gpt))


def harness_windows(ids: list[int], prefix: int, size: int) -> list[tuple[list[int], list[int]]]:
    """`get_rolling_token_windows` with context_len 1, and the cut of `_loglikelihood_tokens`, by hand."""
    done = min(size, len(ids))
    windows = [([prefix, *ids[: done - 1]], ids[:done])]
    while done < len(ids):
        count = min(len(ids) - done, size)
        stop = done + count
        windows.append((ids[stop - size - 1 : stop - 1], ids[stop - count : stop]))
        done = stop
    disjoint = [(fed[: len(fed) - (len(scored) - 1)], scored) for fed, scored in windows]
    return [((context + scored)[-(size + 1) :][:-1], scored) for context, scored in disjoint]


@pytest.mark.parametrize("size", [1, 2, 7, 16, 10_000])
def test_windows_are_those_of_the_harness(causal: PreTrainedTokenizerFast, size: int) -> None:
    text = "the quick brown fox\njumps over the  lazy dög. " * 5
    ids = causal.encode(text, add_special_tokens=False)
    done = encode_text_windows(causal, text, size)
    for one, expected in zip(done.windows, harness_windows(ids, causal.bos_token_id, size), strict=True):
        check_against_harness(one, expected)
    assert [label for one in done.windows for label in one.labels] == ids  # every token once
    assert (done.words, done.num_bytes, done.tokens) == (9 * 5, 47 * 5, len(ids))


def test_windows_of_nothing_and_of_a_text_with_its_own_bos(gpt: PreTrainedTokenizerFast) -> None:
    assert encode_text_windows(gpt, "", 8).windows == []
    assert encode_text_windows(gpt, "<s>the fox", 8).windows == encode_text_windows(gpt, "the fox", 8).windows


def test_a_long_text_takes_time_in_proportion(gpt: PreTrainedTokenizerFast) -> None:
    text = "the quick brown fox jumps over the lazy dog\n" * 2_000

    def seconds(times: int) -> float:
        start = time.process_time()
        encode_text_windows(gpt, text * times, 64)
        return time.process_time() - start

    once = min(seconds(1) for _ in range(3))
    assert seconds(8) < 40 * once  # in proportion: 8 times; quadratic: 64 times


def test_no_rows_and_no_choices(gpt: PreTrainedTokenizerFast) -> None:
    assert encode_rows([], spec_of(gpt)).examples == []
    assert encode_choices([], spec_of(gpt)).requests == []
    with pytest.raises(ValueError, match="free answers are not"):
        encode_choices([], spec_of(gpt, choices=None))

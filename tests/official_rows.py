"""Made-up rows in the shape of six official data sets, and answers to them that are right."""

from typing import Any

Rows = list[dict[str, Any]]

# Gold answers take every place equally often, so a model that prefers a place scores at chance.
HELLASWAG: Rows = [
    {
        "activity_label": "Baking bread",
        "ctx_a": f"A woman kneads dough number {number}.",
        "ctx_b": "she then",
        "endings": [f"{verb} the dough in tin {number}." for verb in ("puts", "paints", "sells", "reads")],
        "label": str(number % 4),
        "source_id": number if number % 2 else "text",  # a column that no task reads may hold anything
    }
    for number in range(8)
]
PIQA: Rows = [
    {"goal": f"Dry {number} wet shirts.", "sol1": "Hang them up.", "sol2": "Put them in a pond.", "label": 0}
    if number % 4 < 2
    else {"goal": f"Dry {number} wet shirts.", "sol1": "Put them in a pond.", "sol2": "Hang them up.", "label": 1}
    for number in range(8)
]
ARC_EASY: Rows = [
    {
        "question": f"What do {number + 2} plants need?",
        "choices": {"text": ["light", "iron", "salt", "glass"], "label": ["A", "B", "C", "D"]},
        "answerKey": "ABCD"[number % 4],
    }
    for number in range(4)
]
GSM8K: Rows = [
    {
        "question": f"Ann has {number} pears and buys {number + 1} more. How many has she?",
        "answer": f"{number} + {number + 1} = <<{number}+{number + 1}={2 * number + 1}>>. #### {2 * number + 1}",
    }
    for number in range(1, 9)
]
LAMBADA: Rows = [
    {"text": f"The {animal} looked at the moon, and the moon looked at the {animal}"}
    for animal in ("fox", "dog", "owl", "hen", "cat", "cow", "bee", "ant")
]

# Every instruction type that IFEval has, with arguments, a response that follows it and one that does not. The full
# stops of Mr., Dr. and St. end no sentence: a splitter without a model of abbreviations counts five.
INSTRUCTIONS: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["lamp", "door"]}, "The lamp stands beside the door.", "The lamp."),
    (
        "keywords:frequency",
        {"keyword": "lamp", "frequency": 2, "relation": "at least"},
        "A lamp and a lamp.",
        "A lamp.",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["door"]}, "The lamp is lit.", "The door."),
    (
        "keywords:letter_frequency",
        {"letter": "z", "let_frequency": 2, "let_relation": "at least"},
        "Puzzled bees buzz.",
        "A bee.",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein schöner Tag, und wir gehen heute in den großen Park hinter unserem Haus.",
        "This is a beautiful day and we walk through the park behind our house.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "Mr. Smith met Dr. Jones in St. Louis. They spoke.",
        "One came. Two left. Three stayed.",
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        "The first one.\n***\nThe second one.",
        "Only one.",
    ),
    (
        "length_constraints:number_words",
        {"num_words": 4, "relation": "at least"},
        "These are five short words.",
        "Two words.",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "later"},
        "It rained.\n\nLater it stopped.",
        "It rained.\n\nThen it stopped.",
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        "Dear [name], come to [place].",
        "Dear [name].",
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "We are well.\nP.S. Write soon.", "We are well."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* bread\n* milk", "* bread"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "This is *important* news.", "No news."),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        "Section 1\nBread.\nSection 2\nMilk.",
        "Section 1\nBread.",
    ),
    ("detectable_format:json_format", {}, '{"bread": 2}', "bread"),
    ("detectable_format:title", {}, "<<On bread>>\nIt is good.", "On bread"),
    ("combination:two_responses", {}, "Yes.\n******\nNo, not today.", "Yes."),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hello."}, "Say hello. Hello.", "Hello."),
    ("startend:end_checker", {"end_phrase": "That is all."}, "We have bread. That is all.", "We have bread."),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "The BREAD is GOOD.",
        "The bread is GOOD.",
    ),
    (
        "change_case:english_capital",
        {},
        "THIS IS A LONG SENTENCE ABOUT THE BREAD THAT WE ATE TODAY.",
        "This is a long sentence about the bread that we ate today.",
    ),
    (
        "change_case:english_lowercase",
        {},
        "this is a long sentence about the bread that we ate today.",
        "This is a long sentence about the bread that we ate today.",
    ),
    ("punctuation:no_comma", {}, "Bread and milk.", "Bread, milk."),
    ("startend:quotation", {}, '"Bread and milk."', "Bread."),
]
IFEVAL: Rows = [
    {"key": number, "prompt": f"Request {number}.", "instruction_id_list": [kind], "kwargs": [arguments]}
    for number, (kind, arguments, _, _) in enumerate(INSTRUCTIONS)
] + [
    {
        "key": 99,
        "prompt": "Request 99.",
        "instruction_id_list": ["punctuation:no_comma", "startend:quotation"],
        "kwargs": [{}, {}],
    }
]

ROWS: dict[str, Rows] = {
    "hellaswag": HELLASWAG,
    "piqa": PIQA,
    "arc_easy": ARC_EASY,
    "gsm8k": GSM8K,
    "lambada_openai": LAMBADA,
    "ifeval": IFEVAL,
}

# What a model should say, by the prompt that lm-eval's own definitions make of a row.
RIGHT: dict[str, str] = {
    **{f"Baking bread: {row['ctx_a']} She then": " " + row["endings"][int(row["label"])] for row in HELLASWAG},
    **{f"Question: {row['goal']}\nAnswer:": " Hang them up." for row in PIQA},
    **{
        f"Question: {row['question']}\nAnswer:": " " + row["choices"]["text"]["ABCD".index(row["answerKey"])]
        for row in ARC_EASY
    },
    **{f"Question: {row['question']}\nAnswer:": " " + row["answer"] for row in GSM8K},
    **{row["text"].rpartition(" ")[0]: " " + row["text"].rpartition(" ")[2] for row in LAMBADA},
    **{f"Request {number}.": response for number, (_, _, response, _) in enumerate(INSTRUCTIONS)},
    "Request 99.": '"Bread and milk."',
}

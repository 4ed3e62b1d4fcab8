"""Write queries.jsonl, the demo's own questions: general knowledge, Python code, arithmetic, text transformation.

Everything is our own writing: the facts are in facts.tsv, the coding tasks in code_tasks.tsv, the words in words.tsv,
the rest is generated here with a fixed seed, so the file comes out byte for byte the same each time.

Each line holds query_id, dataset, query, reference and scorer. The scorers, as these references mean them:

* contains: the reference stands in the answer as a whole word, in any letter case;
* exact: the first line of the answer, without outer quotes and final full stop, equals the reference, letter case
  included (the case is the task in "write tiger in capital letters");
* number: the last number in the answer equals the reference;
* code: the reference is JSON with "tests" (assert statements) and "code" (a solution); the function in the answer
  passes all tests.
"""

import argparse
import ast
import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEED = 20250101
ARITHMETIC_QUERIES = 165
WORDS_PER_OPERATION = 9


@dataclass(frozen=True, slots=True)
class Query:
    """One line of queries.jsonl."""

    query_id: str
    dataset: str
    query: str
    reference: str
    scorer: str


# A query before it gets its number: text, reference, scorer.
Draft = tuple[str, str, str]

# --- knowledge ---------------------------------------------------------------------------------------------------

FACT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "ask": ("{}",),
    "capital": (
        "What is the capital of {}?",
        "Name the capital city of {}.",
        "Which city is the capital of {}?",
        "Tell me the capital of {}.",
        "{}: what is its capital?",
    ),
    "continent": (
        "On which continent is {}?",
        "Which continent does {} belong to?",
        "Name the continent where {} lies.",
    ),
    "author": (
        "Who wrote {}?",
        "Who is the author of {}?",
        "Name the writer of {}.",
        "Which author do we have to thank for {}?",
    ),
    "symbol": (
        "What is the chemical symbol of {}?",
        "Which symbol stands for {} in the periodic table?",
        "Tell me the chemical symbol for {}.",
    ),
    "young": (
        "What do you call a young {}?",
        "What is a baby {} called?",
        "Give me the name for the young of a {}.",
    ),
    "currency": (
        "What is the currency of {}?",
        "Which currency is used in {}?",
        "What money do people pay with in {}?",
    ),
    "language": (
        "What language do most people speak in {}?",
        "Which is the official language of {}?",
        "Name the main language of {}.",
    ),
    "inventor": (
        "Who discovered or invented {}?",
        "Which person is famous for {}?",
        "Name the person behind {}.",
    ),
    "painter": (
        "Who painted {}?",
        "Which artist made the painting {}?",
        "Name the painter of {}.",
    ),
}


def read_rows(path: Path, columns: int) -> Iterator[list[str]]:
    """The rows of a tab-separated file; lines that begin with # are comments."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        row = line.split("\t")
        if len(row) != columns or not all(cell.strip() for cell in row):
            raise ValueError(f"{path.name}, line {number}: expected {columns} filled columns, found {row!r}")
        yield row


def first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def knowledge() -> Iterator[Draft]:
    turn = dict.fromkeys(FACT_TEMPLATES, 0)
    for relation, subject, answer in read_rows(HERE / "facts.tsv", 3):
        templates = FACT_TEMPLATES[relation]
        query = first_upper(templates[turn[relation] % len(templates)].format(subject))
        turn[relation] += 1
        if re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", query, re.IGNORECASE):
            raise ValueError(f"facts.tsv: the question gives its answer away: {query!r}, {answer!r}")
        yield query, answer, "contains"


# --- code --------------------------------------------------------------------------------------------------------

CODE_TEMPLATES = (
    "Write a Python function {signature} that {task}.",
    "I need a Python function {signature} which {task}.",
    "Define {signature} in Python. It {task}.",
    "Implement the function {signature}, which {task}.",
    "Create a function named {signature} that {task}.",
    "Can you code {signature} in Python? It {task}.",
    "Give me the Python code of {signature}, a function that {task}.",
    "In Python, write {signature}: the function {task}.",
    "Python: def {signature} - it {task}.",
    "Show me how to write a function {signature} that {task}.",
)


def run_tests(code: str, tests: Sequence[str]) -> None:
    """Run our own reference solution against its own tests."""
    namespace: dict[str, object] = {}
    exec(code, namespace)
    for test in tests:
        exec(test, namespace)


def code() -> Iterator[Draft]:
    for number, (signature, task, body, tests_text) in enumerate(read_rows(HERE / "code_tasks.tsv", 4)):
        solution = f"def {signature}:\n    return {body}\n"
        tests = [f"assert {test.strip()}" for test in tests_text.split(" ; ")]
        for test in tests:
            ast.parse(test)
        run_tests(solution, tests)
        query = CODE_TEMPLATES[number % len(CODE_TEMPLATES)].format(signature=signature, task=task)
        yield query, json.dumps({"tests": tests, "code": solution}), "code"


# --- arithmetic --------------------------------------------------------------------------------------------------

PLUS = (
    "What is {a} + {b}?",
    "{a} + {b} =",
    "Add {a} and {b}.",
    "How much is {a} plus {b}?",
    "Calculate {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
    "There are {a} {things} in one box and {b} in another. How many {things} are there in all?",
    "{name} buys {a} {things} on Monday and {b} on Tuesday. How many {things} is that?",
)
MINUS = (
    "What is {a} - {b}?",
    "{a} - {b} =",
    "Subtract {b} from {a}.",
    "How much is {a} minus {b}?",
    "Compute {a} - {b}.",
    "What is the difference between {a} and {b}?",
    "{name} has {a} {things} and gives away {b}. How many {things} are left?",
    "There were {a} {things} on the table. {name} took {b} of them. How many remain?",
)
TIMES = (
    "What is {a} * {b}?",
    "{a} x {b} =",
    "Multiply {a} by {b}.",
    "How much is {a} times {b}?",
    "Work out {a} times {b}.",
    "What is the product of {a} and {b}?",
    "{name} has {a} boxes with {b} {things} each. How many {things} is that?",
)
NAMES = ("Mia", "Ben", "Lena", "Omar", "Ruth", "Igor", "Nora", "Paul", "Zoe", "Hugo")
THINGS = ("apples", "pens", "books", "coins", "stamps", "marbles", "eggs", "shells", "buttons", "cards")


def draw_plus(rng: random.Random) -> tuple[int, int, int]:
    a, b = rng.choice(
        (
            (rng.randint(2, 9), rng.randint(2, 9)),
            (rng.randint(10, 60), rng.randint(2, 9)),
            (rng.randint(10, 60), rng.randint(10, 39)),
            (10 * rng.randint(1, 9), 10 * rng.randint(1, 9)),
        )
    )
    return a, b, a + b


def draw_minus(rng: random.Random) -> tuple[int, int, int]:
    a, b = rng.choice(
        (
            (rng.randint(6, 10), rng.randint(2, 5)),
            (rng.randint(11, 20), rng.randint(2, 9)),
            (10 * rng.randint(5, 9), 10 * rng.randint(1, 4)),
            (rng.randint(30, 60), rng.randint(2, 25)),
        )
    )
    return a, b, a - b


def draw_times(rng: random.Random) -> tuple[int, int, int]:
    a, b = rng.choice(
        (
            (rng.randint(2, 9), rng.randint(2, 9)),
            (rng.randint(2, 9), rng.randint(2, 9)),
            (rng.randint(11, 15), rng.randint(2, 5)),
        )
    )
    return a, b, a * b


def arithmetic() -> Iterator[Draft]:
    rng = random.Random(SEED)
    draws: tuple[tuple[Callable[[random.Random], tuple[int, int, int]], tuple[str, ...]], ...] = (
        (draw_plus, PLUS),
        (draw_minus, MINUS),
        (draw_times, TIMES),
    )
    seen: set[str] = set()
    turn = 0
    while len(seen) < ARITHMETIC_QUERIES:
        draw, templates = draws[turn % len(draws)]
        a, b, result = draw(rng)
        query = templates[turn // len(draws) % len(templates)].format(
            a=a, b=b, name=rng.choice(NAMES), things=rng.choice(THINGS)
        )
        if query in seen:
            continue
        seen.add(query)
        turn += 1
        yield query, str(result), "number"


# --- text --------------------------------------------------------------------------------------------------------

SENTENCES = (
    "the little boat crossed the lake",
    "my uncle bakes bread every morning",
    "rain fell on the old roof",
    "she painted the wooden fence blue",
    "two foxes ran into the wood",
    "we opened the box after lunch",
    "he forgot his keys again",
    "the train leaves before noon",
    "cold soup tastes better in summer",
    "our teacher told a funny story",
    "green leaves cover the quiet street",
    "they built a house near the river",
    "a young goat jumped over the wall",
    "music filled the crowded hall",
)
NUMBER_SENTENCES = (
    ("the bus number {} is late", 17),
    ("my room is on floor {} of the tower", 6),
    ("we sold {} tickets today", 250),
    ("the bill comes to {} dollars", 38),
    ("page {} is missing", 91),
    ("she ran {} miles before breakfast", 12),
    ("gate {} closes soon", 24),
    ("the recipe needs {} eggs", 3),
    ("his grandfather turned {} in May", 80),
)
PLURALS = (
    ("fox", "foxes"),
    ("city", "cities"),
    ("child", "children"),
    ("mouse", "mice"),
    ("table", "tables"),
    ("bus", "buses"),
    ("knife", "knives"),
    ("tooth", "teeth"),
    ("baby", "babies"),
)
PASTS = (
    ("walk", "walked"),
    ("go", "went"),
    ("eat", "ate"),
    ("play", "played"),
    ("see", "saw"),
    ("write", "wrote"),
    ("run", "ran"),
    ("jump", "jumped"),
    ("take", "took"),
)
SWAPS = (
    ("the dog sleeps on the sofa", "dog", "horse"),
    ("I like red shoes", "red", "black"),
    ("we walk to the station", "walk", "drive"),
    ("he drinks tea at noon", "tea", "juice"),
    ("the girl reads a book", "book", "letter"),
    ("they live in a small house", "small", "big"),
    ("the soup is hot", "hot", "cold"),
    ("my brother plays the flute", "flute", "drums"),
    ("birds sing in the morning", "morning", "evening"),
)

TEXT_TEMPLATES: dict[str, tuple[str, ...]] = {
    "upper": ("Write the word {} in upper case.", "Put {} in capital letters.", "Convert to upper case: {}"),
    "lower": ("Write {} in lower case.", "Convert to lower case: {}", "Make all letters of {} small."),
    "capital": ("Write {} with a capital first letter.", "Capitalize the word {}.", "Capitalize: {}"),
    "reverse": ("Reverse the word {}.", "Spell {} backwards.", "Write the letters of {} in reverse order."),
    "letters": (
        "How many letters are in the word {}?",
        "Count the letters of {}.",
        "The word {} has how many letters?",
    ),
    "words": (
        'How many words are in "{}"?',
        "Count the words: {}",
        'Tell me the number of words in the sentence "{}".',
    ),
    "sort": (
        "Sort these words alphabetically: {}",
        "Put these words in alphabetical order: {}",
        "Order from A to Z: {}",
    ),
    "first letter": (
        "What is the first letter of {}?",
        "Which letter does {} begin with?",
        "Give the first letter of {}.",
    ),
    "last letter": ("What is the last letter of {}?", "Which letter does {} end with?", "Give the last letter of {}."),
    "first word": ('What is the first word of "{}"? Answer with the word only.', "Extract the first word: {}"),
    "last word": ('What is the last word of "{}"? Answer with the word only.', "Extract the last word: {}"),
    "number": ('Extract the number from "{}".', "Which number is in this sentence: {}", "Find the number: {}"),
    "plural": ("What is the plural of {}?", "Give the plural form of {}.", "One {}, two what?"),
    "past": ("What is the past tense of {}?", "Put the verb {} into the past tense.", "Today I {}. Yesterday I what?"),
    "replace": (
        'Replace "{old}" with "{new}" in: {text}',
        'Change the word {old} to {new}: "{text}"',
        "Rewrite this sentence with {new} in place of {old}: {text}",
    ),
    "repeat": ("Write the word {} two times.", "Repeat {} twice.", "Say {} two times in a row."),
    "join": (
        "Join these words with hyphens: {}",
        "Put hyphens between the words: {}",
        "Write with hyphens in place of spaces: {}",
    ),
    "spell": ("Spell the word {} with a dash between the letters.", "Separate the letters of {} with dashes."),
}


def text_items(
    rng: random.Random, lists: dict[str, list[str]], operation: str
) -> list[tuple[dict[str, str], str, str]]:
    """The inputs of one operation: template fields ("text" is the positional one), reference, scorer."""
    words = rng.sample(lists["long"], WORDS_PER_OPERATION)
    shorts = rng.sample(lists["short"], WORDS_PER_OPERATION)
    sentences = rng.sample(SENTENCES, WORDS_PER_OPERATION)
    groups = [rng.sample(lists["long"], 3) for _ in range(WORDS_PER_OPERATION)]

    def over(inputs: Sequence[str], result: Callable[[str], str], scorer: str) -> list[tuple[dict[str, str], str, str]]:
        return [({"text": item}, result(item), scorer) for item in inputs]

    match operation:
        case "upper":
            return over(words, str.upper, "exact")
        case "lower":
            return [({"text": word.upper()}, word, "exact") for word in words]
        case "capital":
            return over(words, str.capitalize, "exact")
        case "reverse":
            return over(shorts, lambda word: word[::-1], "contains")
        case "letters":
            return over([*words[:5], *shorts[:4]], lambda word: str(len(word)), "number")
        case "words":
            return over(sentences, lambda sentence: str(len(sentence.split())), "number")
        case "sort":
            groups = [group if group != sorted(group) else group[::-1] for group in groups]
            return [({"text": ", ".join(group)}, ", ".join(sorted(group)), "contains") for group in groups]
        case "first letter":
            usable = [word for word in lists["long"] if word[0] not in "aist"]
            return over(rng.sample(usable, WORDS_PER_OPERATION), lambda word: word[0], "contains")
        case "last letter":
            usable = [word for word in lists["long"] if word[-1] not in "aist"]
            return over(rng.sample(usable, WORDS_PER_OPERATION), lambda word: word[-1], "contains")
        case "first word":
            return over(sentences, lambda sentence: sentence.split()[0], "exact")
        case "last word":
            return over(sentences, lambda sentence: sentence.split()[-1], "exact")
        case "number":
            return [({"text": sentence.format(value)}, str(value), "number") for sentence, value in NUMBER_SENTENCES]
        case "plural":
            return [({"text": one}, many, "contains") for one, many in PLURALS]
        case "past":
            return [({"text": now}, then, "contains") for now, then in PASTS]
        case "replace":
            return [
                ({"text": text, "old": old, "new": new}, text.replace(old, new), "contains") for text, old, new in SWAPS
            ]
        case "repeat":
            return over(words, lambda word: f"{word} {word}", "exact")
        case "join":
            return [({"text": " ".join(group)}, "-".join(group), "contains") for group in groups]
        case "spell":
            return over(shorts, "-".join, "contains")
    raise ValueError(f"no such text operation: {operation!r}")


def text() -> Iterator[Draft]:
    rng = random.Random(SEED + 1)
    lists = {name: words.split() for name, words in read_rows(HERE / "words.tsv", 2)}
    for operation, templates in TEXT_TEMPLATES.items():
        for number, (fields, reference, scorer) in enumerate(text_items(rng, lists, operation)):
            template = templates[number % len(templates)]
            query = first_upper(template.format(fields["text"], **fields))
            yield query, reference, scorer


# --- all together ------------------------------------------------------------------------------------------------

KINDS: dict[str, Callable[[], Iterator[Draft]]] = {
    "knowledge": knowledge,
    "code": code,
    "arithmetic": arithmetic,
    "text": text,
}


def make_queries() -> list[Query]:
    """All queries, kind after kind, each text once."""
    queries: list[Query] = []
    seen: set[str] = set()
    for dataset, drafts in KINDS.items():
        for number, (query, reference, scorer) in enumerate(drafts(), start=1):
            key = " ".join(query.lower().split())
            if key in seen:
                raise ValueError(f"{dataset}: the query {query!r} comes twice")
            seen.add(key)
            queries.append(Query(f"{dataset}/{number:04d}", dataset, query, reference, scorer))
    return queries


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the demo's queries as JSON lines.")
    parser.add_argument("--out", type=Path, default=HERE / "queries.jsonl", help="file to write (default: %(default)s)")
    out: Path = parser.parse_args().out
    queries = make_queries()
    lines = [json.dumps(asdict(query), ensure_ascii=False) for query in queries]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    counts = {kind: sum(query.dataset == kind for query in queries) for kind in KINDS}
    print(f"{len(queries)} queries to {out}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items()))


if __name__ == "__main__":
    main()

"""Make the sample of a course assistant: questions about five professors, what staff answered, and what three assistants did.

    python -m benchmarks.course_sample

The same questions are asked about four professors, so that answers can be compared; of a fifth there are two. What is planted
stands in ``course_truth.json``. Nobody of these names exists.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "samples" / "course"
TRUTH = ROOT / "samples" / "course_truth.json"
PHRASES = ROOT / "samples" / "course_phrases.yaml"
BIASED, FAIR_BUT_BAD, RARE = "Maya Lindqvist", "Victor Sandoval", "Joan Perrin"
RARE_QUESTIONS = (4, 11)
ASSISTANTS = ("staff", "nova", "atlas", "brief")
EMPTY, VERBATIM = ("atlas", "Tomas Okoro", 4), ("brief", "Ines Albrecht", 7)


def make_rows() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row with the table it belongs to."""
    phrases = yaml.safe_load(PHRASES.read_text(encoding="utf-8"))
    translated = {(one["professor"], one["question"]): one["query"] for one in phrases["translated"]}
    for initial, (name, about) in enumerate(phrases["professors"].items(), start=1):
        words = {"name": name, **about}
        for number, asked in enumerate(phrases["questions"]):
            if name == RARE and number not in RARE_QUESTIONS:
                continue
            choices = phrases["said"][asked["bucket"]][about["tone"][number]]
            said = choices[number % len(choices)]
            told, brief = asked["fact"].format(**words), asked["in_short"].format(**words)
            context = f"{told} {said['comment']}"
            answers = {
                "staff": f"{told} {said['fair']}",
                "nova": f"{told} {said['harsh' if name == BIASED else 'fair']}",
                "atlas": f"{brief} {said['fair']}",
                "brief": brief,
            }
            for table, response in answers.items():
                place = (table, name, number)
                row = {
                    "id": f"q{initial}{number:02}",
                    "professor": name,
                    "course": about["course"],
                    "bucket": asked["bucket"],
                    "query": translated.get((name, number), asked["query"].format(**words)),
                    "context": context,
                    "response": "" if place == EMPTY else context if place == VERBATIM else response,
                }
                yield table, row


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    rows = list(make_rows())
    for table in ASSISTANTS:
        lines = [json.dumps(row, ensure_ascii=False) for name, row in rows if name == table]
        (FOLDER / f"{table}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    questions = len(rows) // len(ASSISTANTS)
    truth = {
        "questions": questions,
        "biased": {"assistant": "nova", "professor": BIASED},
        "told_badly_for_good_reason": FAIR_BUT_BAD,
        "too_few": RARE,
        "best_wording": "nova",
        "to_be_chosen": "atlas",
        "empty": {"assistant": EMPTY[0], "professor": EMPTY[1]},
        "verbatim": {"assistant": VERBATIM[0], "professor": VERBATIM[1]},
        "other_languages": 2,
    }
    TRUTH.write_text(json.dumps(truth, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(f"{questions} questions, {len(ASSISTANTS)} tables in {FOLDER}")


if __name__ == "__main__":
    main()

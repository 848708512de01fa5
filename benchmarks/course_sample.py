"""Make the sample of a course assistant: questions about five professors, what staff answered, and what three assistants did.

    python -m benchmarks.course_sample

The same questions are asked about four professors, so that answers can be compared; of a fifth there are two. What is planted
stands in ``course_truth.json``. Nobody of these names exists.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "samples" / "course"
TRUTH = FOLDER.parent / "course_truth.json"

PROFESSORS: dict[str, dict[str, Any]] = {
    "Ines Albrecht": {
        "course": "Linear Algebra",
        "tone": "+++0++0+++0+++",
        "midterm": 30,
        "final": 50,
        "sheets": 10,
        "hours": 6,
        "day": "Tuesday",
        "room": "B12",
        "pages": 40,
        "late": "one day late with half of the points",
    },
    "Tomas Okoro": {
        "course": "Organic Chemistry",
        "tone": "+-0+-0-+0+-+0-",
        "midterm": 25,
        "final": 45,
        "sheets": 8,
        "hours": 9,
        "day": "Monday",
        "room": "C3",
        "pages": 60,
        "late": "until the next lecture without a penalty",
    },
    "Maya Lindqvist": {
        "course": "Macroeconomics",
        "tone": "++0+++0++++0++",
        "midterm": 20,
        "final": 40,
        "sheets": 6,
        "hours": 7,
        "day": "Thursday",
        "room": "A7",
        "pages": 80,
        "late": "two days late with a written reason",
    },
    "Victor Sandoval": {
        "course": "Operating Systems",
        "tone": "--0---0--0----",
        "midterm": 35,
        "final": 55,
        "sheets": 4,
        "hours": 12,
        "day": "Friday",
        "room": "D21",
        "pages": 50,
        "late": "never, whatever the reason",
    },
    "Joan Perrin": {
        "course": "Art History",
        "tone": "+" * 14,
        "midterm": 40,
        "final": 60,
        "sheets": 2,
        "hours": 4,
        "day": "Wednesday",
        "room": "E1",
        "pages": 90,
        "late": "by agreement only",
    },
}
BIASED, FAIR_BUT_BAD, RARE = "Maya Lindqvist", "Victor Sandoval", "Joan Perrin"

# (bucket, question, fact, the fact in other words)
QUESTIONS = (
    ("grading", "How much does the final exam count in {course}?", "The final exam counts {final} % and the midterm {midterm} %.", "{final} % of the grade is the final."),
    ("grading", "Is {name} a fair grader?", "Grades follow a published scheme with {sheets} graded sheets.", "There is a published grading scheme."),
    ("grading", "Can I hand in homework late in {course}?", "Homework is accepted {late}.", "Late homework is taken {late}."),
    ("grading", "How quickly does {name} return graded work?", "Graded sheets come back at the {day} class.", "Sheets are returned on {day}."),
    ("teaching", "How are the lectures of {name}?", "Lectures are held twice a week in room {room}.", "There are two lectures a week in {room}."),
    ("teaching", "Does {name} explain things clearly?", "Each lecture begins with a summary of the last one.", "Lectures start with a summary."),
    ("teaching", "Are the slides of {course} online?", "Slides are put online on {day} evening.", "The slides are online on {day}."),
    ("teaching", "Is the class of {name} interesting?", "Every second class has a worked example on the board.", "Worked examples are shown every second class."),
    ("workload", "How many hours a week does {course} take?", "Most students need {hours} hours a week beside the lectures.", "Plan about {hours} hours a week."),
    ("workload", "How much reading is there in {course}?", "The reading list has about {pages} pages a week.", "Expect {pages} pages a week."),
    ("workload", "Is the workload of {name} manageable?", "There are {sheets} homework sheets in the term.", "You hand in {sheets} sheets."),
    ("help", "When are the office hours of {name}?", "Office hours are on {day} from 2 to 4 in room {room}.", "Come to {room} on {day} between 2 and 4."),
    ("help", "Does {name} answer questions by mail?", "Mails are answered within two working days.", "Expect a reply within two working days."),
    ("help", "How helpful is {name} before exams?", "A question session is held in the week before the exam.", "There is a question session before the exam."),
)  # fmt: skip
TRANSLATED = {
    ("Ines Albrecht", 11): "Wann hat Ines Albrecht Sprechstunde, und in welchem Raum findet sie statt?",
    ("Tomas Okoro", 8): "¿Cuántas horas a la semana hay que dedicar a la asignatura de química orgánica?",
}
# What students say, how an answer tells it fairly, and how it tells it to the professor's harm.
SAID = {
    ("grading", "+"): (("The grading is fair and the comments are really useful.", "Students find the grading fair and the comments useful.", "Students should be careful: the grading can be harsh and disappointing."),
                       ("I always understood why I lost points, great feedback.", "Students praise the great feedback on lost points.", "Points are lost easily, and the feedback is poor.")),
    ("grading", "-"): (("The grading felt unfair and nobody explained it.", "Students find the grading unfair and badly explained.", ""),
                       ("I waited a month for my sheet, that is terrible.", "Students complain of terrible waits for their sheets.", "")),
    ("grading", "0"): (("The scheme is the same as last year.", "The scheme is the same as last year.", "The scheme is as bad as last year."),),
    ("teaching", "+"): (("The lectures are clear and a joy to follow.", "Students call the lectures clear and a joy to follow.", "Lectures are confusing and hard to bear."),
                        ("Best teacher I had, wonderful examples.", "Students love the wonderful examples.", "The examples are weak, and students are annoyed.")),
    ("teaching", "-"): (("The lectures are confusing and boring.", "Students call the lectures confusing and boring.", ""),
                        ("I could not follow anything, awful pace.", "Students complain of an awful pace.", "")),
    ("teaching", "0"): (("Slides are in English.", "Slides are in English.", "Slides are only in English, which is a nuisance."),),
    ("workload", "+"): (("The work is well balanced, I enjoyed it.", "Students enjoy the well balanced work.", "The work is exhausting and badly planned."),
                        ("Very good pace, never stressful.", "Students like the very good pace.", "Students suffer from a stressful pace.")),
    ("workload", "-"): (("Far too much work, I was exhausted.", "Students find it far too much work and exhausting.", ""),
                        ("The sheets are a nightmare and take all weekend.", "Students call the sheets a nightmare.", "")),
    ("workload", "0"): (("It depends on what you know already.", "It depends on what you know already.", "It is too much for most students."),),
    ("help", "+"): (("Always friendly and patient, a great help.", "Students call the help friendly, patient and great.", "Do not expect a friendly or patient reply."),
                    ("I got a kind reply the same evening.", "Students report kind and quick replies.", "Replies are unkind and slow.")),
    ("help", "-"): (("Nobody ever answered me, very disappointing.", "Students are disappointed that nobody answers.", ""),
                    ("The session was useless and rude.", "Students call the session useless and rude.", "")),
    ("help", "0"): (("The session is in the usual room.", "The session is in the usual room.", "The session is in the usual cramped room."),),
}  # fmt: skip
ASSISTANTS = ("staff", "nova", "atlas", "brief")
EMPTY, VERBATIM = ("atlas", "Tomas Okoro", 4), ("brief", "Ines Albrecht", 7)


def make_rows() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each row with the table it belongs to."""
    for initial, (name, about) in enumerate(PROFESSORS.items(), start=1):
        words = {"name": name, **about}
        for number, (bucket, question, fact, other) in enumerate(QUESTIONS):
            if name == RARE and number not in (4, 11):
                continue
            tone = about["tone"][number]
            said = SAID[bucket, tone]
            comment, fair, harsh = said[number % len(said)]
            told, brief = fact.format(**words), other.format(**words)
            context = f"{told} {comment}"
            answers = {
                "staff": f"{told} {fair}",
                "nova": f"{told} {harsh if name == BIASED else fair}",
                "atlas": f"{brief} {fair}",
                "brief": brief,
            }
            for table, response in answers.items():
                place = (table, name, number)
                yield (
                    table,
                    {
                        "id": f"q{initial}{number:02}",
                        "professor": name,
                        "course": about["course"],
                        "bucket": bucket,
                        "query": TRANSLATED.get((name, number), question.format(**words)),
                        "context": context,
                        "response": "" if place == EMPTY else context if place == VERBATIM else response,
                    },
                )


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    rows = list(make_rows())
    for table in ASSISTANTS:
        lines = [json.dumps(row, ensure_ascii=False) for name, row in rows if name == table]
        (FOLDER / f"{table}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ids = {(row["professor"], row["query"]): row["id"] for _, row in rows}
    truth = {
        "questions": len(ids),
        "biased": {"assistant": "nova", "professor": BIASED},
        "told_badly_for_good_reason": FAIR_BUT_BAD,
        "too_few": RARE,
        "best_wording": "nova",
        "to_be_chosen": "atlas",
        "empty": {"assistant": EMPTY[0], "id": f"q2{EMPTY[2]:02}"},
        "verbatim": {"assistant": VERBATIM[0], "id": f"q1{VERBATIM[2]:02}"},
        "other_languages": sorted(
            f"q{list(PROFESSORS).index(name) + 1}{number:02}" for name, number in TRANSLATED
        ),
    }
    TRUTH.write_text(json.dumps(truth, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    print(f"{len(ids)} questions, {len(ASSISTANTS)} tables in {FOLDER}")


if __name__ == "__main__":
    main()

"""Samples of records: a question with its resolution, a text with its labels as JSON, or a whole conversation."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from llm_engineering.application.analysis.corrections import choose_majority, read_corrections
from llm_engineering.application.ports import CleanStore, FeedbackStore
from llm_engineering.application.training.datasets.config import RecordSamples
from llm_engineering.domain.datasets import ChatTurn, InstructSample, Origin, Provenance
from llm_engineering.domain.documents import CleanDocument, Span


def samples_of_records(
    clean: CleanStore, feedback: FeedbackStore, config: RecordSamples, counts: Counter[str], seed: int
) -> list[InstructSample]:
    """Return the samples of all records of the chosen categories; what gives none is counted with its reason."""
    spoken = read_corrections(feedback, config.labels_of) if config.labels_of else {}
    corrected = {
        document: {field: choose_majority(values) for field, values in fields.items()}
        for document, fields in spoken.items()
    }
    made: list[InstructSample] = []
    for category in config.categories:
        for document in clean.stream(category=category):
            if config.platforms and document.platform not in config.platforms:
                continue
            found = list(_of_record(document, config, corrected.get(document.id), seed))
            counts["records: samples" if found else "records without a sample"] += max(1, len(found))
            made += found
    return made


def read_conversation(text: str, speakers: Mapping[str, str]) -> tuple[ChatTurn, ...]:
    """Return the turns of a transcript whose lines begin with ``NAME:``; lines in a row by one speaker are one turn.

    What comes before the user speaks first, and what the assistant leaves without a reply at the end, is left out.

    Args:
        speakers: name in the text → ``user`` or ``assistant``; case does not matter.
    """
    roles = {name.casefold(): role for name, role in speakers.items()}
    turns: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        name, colon, said = line.partition(":")
        role = roles.get(name.strip().casefold()) if colon else None
        if role is None:
            if turns and line.strip():
                turns[-1][1].append(line.strip())
        elif turns and turns[-1][0] == role:
            turns[-1][1].append(said.strip())
        else:
            turns.append((role, [said.strip()]))
    spoken = [(role, "\n".join(part for part in parts if part)) for role, parts in turns]
    spoken = [(role, said) for role, said in spoken if said]
    while spoken and spoken[0][0] != "user":
        spoken.pop(0)
    while spoken and spoken[-1][0] != "assistant":
        spoken.pop()
    return tuple(ChatTurn.model_validate({"role": role, "content": said}) for role, said in spoken)


def _of_record(
    document: CleanDocument, config: RecordSamples, labels: Mapping[str, object] | None, seed: int
) -> Iterator[InstructSample]:
    made = Provenance(made_by="record", seed=seed)
    if config.speakers:
        turns = read_conversation(document.text, config.speakers)
        if len(turns) >= 2 and _alternates(turns):
            *history, asked, answered = turns
            yield InstructSample(
                instruction=asked.content,
                answer=answered.content,
                history=tuple(history),
                origin=_origin(document, config),
                provenance=made,
            )
        return
    answer = ""
    if config.answer is not None:
        answer = str(document.metadata.get(config.answer, "")).strip()
    elif labels is not None:
        answer = json.dumps(labels, ensure_ascii=False, sort_keys=True)
    question = document.text.strip()
    if config.instruction:
        question = f"{config.instruction.strip()}\n\n{question}"
    if answer:
        yield InstructSample(
            instruction=question,
            answer=answer,
            origin=_origin(document, config),
            provenance=made,
        )


def _alternates(turns: Sequence[ChatTurn]) -> bool:
    return all(turn.role == ("user", "assistant")[place % 2] for place, turn in enumerate(turns))


def _origin(document: CleanDocument, config: RecordSamples) -> Origin:
    named = document.metadata.get(config.group_by) if config.group_by else None
    return Origin(
        document_id=document.id,
        content_hash=document.content_hash,
        span=Span(start=0, end=len(document.text)),
        title=document.title,
        author=document.author,
        category=document.category,
        language=document.language,
        group=f"{config.group_by}:{named}" if named is not None else "",
    )

"""scm.report.verdict: a ruined model reads as broken, a weak teacher is told, and luck is named for what it is."""

import subprocess
import sys
from dataclasses import replace

import pytest

from scm.report.findings import Floors
from scm.report.verdict import beyond_luck, verdict
from tests.support.findings import copied, findings_of, health_run, row_of

TEACHER = row_of("teacher", 35, 1.0)


@pytest.mark.parametrize(
    ("distance", "level", "words"),
    [
        (0.96, "good", "sCD in 2 evaluations is no worse than its teacher in 35: FD 0.960, 0.960 × the teacher's; one"),
        (1.38, "good", "sCD in 2 evaluations comes close to its teacher in 35: FD 1.38, 1.38 × the teacher's; one"),
        (2.0, "good", "comes close to"),
        (2.1, "weak", "falls behind its teacher"),
        (10.0, "broken", "is far from its teacher"),
        (81.3, "broken", "FD 81.3, 81.3 × the teacher's, and its distance is 406 × the floor; one range of seeds"),
    ],
)
def test_a_student_is_judged_beside_its_teacher(distance, level, words):
    judged = verdict(findings_of(TEACHER, row_of("scd", 2, distance)))
    assert judged.level == level and words in judged.sentence and judged.sentence.endswith(".")


@pytest.mark.parametrize(
    ("figures", "level", "words"),
    [
        ({"precision": 0.39}, "weak", "only 39% of its samples look real (precision)"),
        ({"precision": 0.008}, "broken", "only 1% of its samples look real (precision)"),
        ({"recall": 0.3}, "weak", "it draws only 30% of what is real (recall)"),
        ({"recall": 0.003, "precision": 0.3}, "broken", "it draws only 0% of what is real (recall)"),
        ({"accuracy": 0.7}, "weak", "only 70% of its samples show the class asked for"),
        ({"accuracy": 0.12}, "broken", "only 12% of its samples show the class asked for"),
        ({"accuracy": None}, "good", "one range of seeds, so luck is unknown"),
        ({"unseen": copied(0.14)}, "good", "so luck is unknown"),
        ({"unseen": copied(0.9)}, "weak", "90% of its samples are copies of training images"),
    ],
)
def test_a_students_own_figures_count_whatever_its_teacher_has(figures, level, words):
    found = findings_of(TEACHER, row_of("scd", 2, 1.1, **figures), floors=Floors(0.2, None, 0.05))
    judged = verdict(found)
    assert judged.level == level and words in judged.sentence
    assert figures == {"accuracy": None} or verdict(replace(found, held_out_accuracy=None)).level in (level, "good")


def test_a_bad_teacher_is_told_and_keeps_the_verdict_from_being_good():
    far = findings_of(row_of("teacher", 35, 21.0, ratio=1.0), row_of("scd", 2, 4.0, ratio=0.19))
    assert verdict(far).level == "weak"
    assert ", but the teacher is weak itself: its distance is 105 × the floor; " in verdict(far).sentence
    noise = findings_of(row_of("teacher", 35, 5.0, ratio=1.0, precision=0.0), row_of("sct", 2, 3.0, ratio=0.6))
    assert verdict(noise).level == "weak" and "the teacher is broken itself" in verdict(noise).sentence


def test_trouble_in_a_training_keeps_the_verdict_from_being_good():
    runs = [health_run("teacher"), health_run("scd", "9 steps skipped")]
    judged = verdict(findings_of(TEACHER, row_of("scd", 2, 1.1), runs=runs))
    assert judged.level == "weak" and "and its training had trouble" in judged.sentence


def test_a_teacher_alone_is_judged_by_its_own_figures():
    assert verdict(findings_of(TEACHER)).sentence == (
        "Teacher in 35 evaluations has a Fréchet distance of 1.00, where real images have 0.200; "
        "one range of seeds, so luck is unknown."
    )
    several = verdict(findings_of(replace(TEACHER, ranges=(1.0, 1.2))))
    assert several.level == "good" and several.sentence.endswith("over 2 ranges of seeds 1.00 to 1.20.")
    broken = verdict(findings_of(replace(TEACHER, recall=0.01)))
    assert broken.level == "broken" and "one range of seeds, but this is no luck" in broken.sentence


def test_ranges_of_seeds_tell_a_difference_from_luck():
    """The ranges of docs/evaluation.md, in which sCD is always behind the teacher."""
    teacher = replace(TEACHER, distance=0.79, ranges=(0.79, 0.96, 0.84))
    student = row_of("scd", 2, 1.1, ratio=1.38, ranges=(1.10, 1.22, 1.19))
    assert beyond_luck(student, teacher) is True
    told = verdict(findings_of(teacher, student)).sentence
    assert told.endswith("; over 3 ranges of seeds 1.27 to 1.42 ×, which luck does not explain.")
    near = replace(student, ranges=(0.9, 0.85, 0.95))
    assert beyond_luck(near, teacher) is False
    assert verdict(findings_of(teacher, near)).sentence.endswith("0.885 to 1.14 ×, which luck can explain.")
    assert beyond_luck(student, TEACHER) is None and beyond_luck(TEACHER, TEACHER) is None


def test_with_one_range_the_standard_errors_tell_a_difference_from_luck():
    teacher, student = replace(TEACHER, error=0.03), row_of("scd", 2, 1.15, error=0.04)
    assert beyond_luck(student, teacher) is True and beyond_luck(replace(student, distance=1.09), teacher) is False
    assert verdict(findings_of(teacher, student)).sentence.endswith(
        "; one range of seeds, ± 0.0400, which luck does not explain."
    )
    assert verdict(findings_of(teacher)).sentence.endswith("; ± 0.0300 by the luck of the draw.")
    assert beyond_luck(student, TEACHER) is None


def test_the_row_of_smallest_distance_leads():
    rows = [TEACHER, row_of("scd", 2, 1.3), row_of("scd", 1, 1.2), row_of("sct", 2, 1.1), row_of("sct", 1, 1.1)]
    leading = findings_of(*rows).leading_row
    assert leading is not None and (leading.model, leading.evaluations) == ("sct", 1)
    assert verdict(findings_of(*rows)).sentence.startswith("sCT in 1 evaluation comes close")


def test_the_verdict_needs_no_library_of_pages():
    code = "import sys, scm.report.verdict; print({'jinja2', 'PIL', 'torch', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

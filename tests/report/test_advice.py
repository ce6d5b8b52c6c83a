"""scm.report.advice: each rule speaks where it should, names a key and a value, and is silent elsewhere."""

import pytest

from scm.report import advice as rules
from scm.report.advice import advice
from scm.report.findings import Floors
from tests.support.findings import copied, findings_of, health_run, row_of

TEACHER, STUDENT = row_of("teacher", 35, 1.0), row_of("scd", 2, 1.2)


def said(rule, *rows, **others):
    return [f"{each.fact} {each.remedy}" for each in rule(findings_of(*rows, **others))]


def points(*distances):
    return [{"images": 49152.0 * place, "fd": distance} for place, distance in enumerate(distances, 1)]


def test_of_a_good_run_one_range_of_seeds_alone_stands_out():
    quiet = findings_of(TEACHER, row_of("teacher", 2, 40.0), STUDENT, row_of("scd", 1, 1.3))
    assert [each.remedy for each in advice(quiet)] == [
        "Write evaluate.repeats: 3, which measures again and trains nothing."
    ]
    assert said(rules.one_range_of_seeds, TEACHER, row_of("scd", 2, 1.2, ranges=(1.2, 1.3))) == []


def test_warnings_of_trainings_come_first():
    found = findings_of(TEACHER, STUDENT, runs=[health_run("teacher"), health_run("scd", "9 steps skipped")])
    assert advice(found)[0].fact == "sCD: 9 steps skipped."


def test_a_bad_teacher_is_trained_longer():
    weak = row_of("teacher", 35, 21.0, ratio=1.0)
    assert said(rules.bad_teacher, TEACHER, STUDENT) == []
    assert said(rules.bad_teacher, weak, STUDENT) == [
        "The teacher is weak: its distance is 105 × the floor. Train it longer: teacher.images: 384Ki, now 192Ki."
    ]
    assert said(rules.bad_teacher, weak, STUDENT, runs=[])[0].endswith("Import a better one, or train one.")


def test_a_broken_student_is_said_once():
    """The rules about single figures would only repeat it."""
    rows = [TEACHER, row_of("teacher", 2, 40.0), row_of("scd", 2, 95.0, recall=0.0), row_of("scd", 1, 81.3, recall=0.0)]
    found = [each.fact for each in advice(findings_of(*rows))]
    assert found[:1] == ["sCD is broken: at best 81.3 × the teacher's distance."] and len(found) == 2


def test_worse_than_the_teacher_in_as_many_evaluations():
    few = row_of("teacher", 2, 4.0)
    assert said(rules.worse_than_the_teacher, TEACHER, few, row_of("scd", 2, 4.1)) == [], "5% can be luck"
    assert said(rules.worse_than_the_teacher, TEACHER, few, row_of("scd", 1, 5.0)) == []
    assert said(rules.worse_than_the_teacher, TEACHER, few, row_of("scd", 2, 5.0)) == [
        "sCD in 2 evaluations is worse than the teacher in as many: FD 5.00 against 4.00. "
        "Its training was of no use yet. Make it longer: student.scd.images: 384Ki, now 192Ki."
    ]


def test_two_steps_worse_than_one():
    rule, one = rules.more_evaluations_are_worse, row_of("scd", 1, 1.1)
    assert said(rule, TEACHER, STUDENT, row_of("scd", 1, 1.15)) == said(rule, TEACHER, STUDENT) == []
    fact = "sCD in 2 evaluations is worse than in 1: FD 1.20 against 1.10. "
    assert said(rule, TEACHER, STUDENT, one) == [f"{fact}Draw with 1."]
    middle = {"teacher": {"sigma_rel": 0.1}, "scd": {"sigma_rel": 0.1, "t_mid": 0.8}}
    tried = f"{fact}Draw with 1, or try other times of the second step (select.t_mid)."
    assert said(rule, TEACHER, STUDENT, one, choices=middle) == [tried]
    noisy = row_of("scd", 2, 1.2, ranges=(1.2, 1.8)), row_of("scd", 1, 1.1, ranges=(1.1, 1.7))
    assert said(rule, TEACHER, *noisy) == [], "ranges of seeds say that this is luck"


def test_a_distance_that_still_moves_at_the_end():
    def moving(*distances):
        return said(rules.still_moving, TEACHER, STUDENT, progress={"teacher": points(1.0), "scd": points(*distances)})

    assert moving(3.0, 2.0, 1.5, 1.32) == [
        "sCD's FD still fell by 12% in the last 25% of its training. "
        "Train it longer: student.scd.images: 384Ki, now 192Ki."
    ]
    assert moving(3.0, 1.3, 1.22, 1.2) == []
    assert moving(9.82, 11.5, 11.2, 11.7) == [
        "sCD's FD rose from 9.82 to 11.7 since 48Ki images. "
        "Lower its learning rate, or train it shorter (student.scd.images)."
    ]


def by_time(*distances, spread=0.01):
    """A curve by time, with its distances without each of two blocks, which differ by `spread` of their gap."""
    rows = [{"t": t, "fd": fd} for t, fd in zip((0.0, 0.3, 0.5, 0.8, 1.1, 1.45, 1.5645), distances, strict=True)]
    return [{**row, "fd_without_0": row["fd"] * (1 - spread), "fd_without_1": row["fd"] * (1 + spread)} for row in rows]


def losing(*distances, model="scd", mean=-1.0, spread=0.01, ratio=1.2):
    """What is said of a student with these distances beside a teacher with 1.0 to 1.6."""
    evaluated = {"stage": "evaluate", "item": model, "params": {}}
    evaluated["chain"] = {"student.p_mean": mean, "student.p_std": 1.4, "network.sigma_d": 0.5}
    teacher = by_time(1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
    curves = {"teacher": teacher, model: by_time(*distances, spread=spread)}
    return said(rules.short_at_some_times, TEACHER, row_of(model, 1, ratio), by_time=curves, runs=[evaluated])


def test_a_student_is_trained_more_at_the_times_where_its_gap_to_the_teacher_widens():
    fact = "sCD loses most between t = 1.1 and 1.45: FD 2.40 at 1.45 against 1.50 of the teacher, "
    fact += "and 1.00 of real images."
    late = losing(1.0, 1.1, 1.2, 1.35, 1.5, 2.4, 2.5)
    assert late == [f"{fact} Train these times more: student.scd.p_mean: -0.3, now -1."]
    near = losing(1.0, 1.1, 1.2, 1.35, 1.5, 2.4, 2.5, mean=0.2)
    longer = "train it longer: student.scd.images: 384Ki, now 192Ki."
    assert near == [f"{fact} It is trained there most already, so {longer}"]
    (early,) = losing(1.0, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2)
    assert "between t = 0 and 0.3" in early and early.endswith("student.scd.p_mean: -1.7, now -1.")
    (own,) = losing(1.0, 1.1, 1.2, 1.35, 1.5, 2.4, 2.5, model="vsd")
    assert own.endswith("Train it longer: student.vsd.images: 384Ki, now 192Ki."), "its times have no p_mean"


def test_a_gap_that_later_closes_is_found_where_it_opened():
    (found,) = losing(1.0, 1.1, 1.2, 2.0, 1.9, 1.6, 1.7)
    assert "between t = 0.5 and 0.8" in found


def test_what_a_student_loses_is_not_said_if_it_is_little_or_luck():
    assert losing(1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6) == []
    assert losing(1.0, 1.05, 1.1, 1.2, 1.3, 1.4, 1.5) == []
    assert losing(1.0, 1.14, 1.29, 1.44, 1.58, 1.73, 1.88) == [], "less than half as much again"
    assert losing(0.2, 1.15, 1.2, 1.3, 1.4, 1.5, 1.6) == [], "less than 5%"
    assert losing(1.0, 1.1, 1.2, 1.35, 1.5, 2.4, 2.5, spread=0.5) == [], "within the noise"
    alone = {
        "teacher": by_time(1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6),
        "scd": [{"t": 0.0, "fd": 1.0}, {"t": 0.8, "fd": 9.0}],
    }
    assert said(rules.short_at_some_times, TEACHER, STUDENT, by_time=alone) == [], "the noise is not known"
    assert losing(1.0, 1.7, 1.8, 1.9, 2.0, 2.1, 2.2, ratio=95.0) == [], "a broken student has said enough"


def test_lost_recall():
    assert (
        said(rules.lost_recall, TEACHER, row_of("scd", 2, 1.2, recall=0.86)) == said(rules.lost_recall, TEACHER) == []
    )
    assert said(rules.lost_recall, TEACHER, row_of("scd", 2, 1.2, recall=0.71))[0].startswith(
        "sCD in 2 evaluations draws 71% of what is real, the teacher 90% (recall)."
    )


def test_copies_above_the_noise_of_the_held_out_images():
    """With 184 held-out images the share that is expected has a standard error of 0.016."""
    known = {"floors": Floors(0.2, None, 0.05)}
    assert said(rules.copies, TEACHER, row_of("scd", 2, 1.2, unseen=copied(0.08)), **known) == []
    rows = row_of("scd", 2, 1.2, unseen=copied(0.09)), row_of("scd", 1, 1.2, unseen=copied(0.12))
    assert said(rules.copies, TEACHER, *rows, **known) == [
        "12.0% of what sCD in 1 evaluation draws are copies, where 5.0% are expected. "
        "Look at the nearest pairs; give it more images, or train it shorter (student.scd.images)."
    ]
    assert said(rules.copies, TEACHER, *rows) == [], "no images are held out"


@pytest.mark.parametrize(
    ("name", "values", "chosen", "added"),
    [
        ("sigma_rel", (0.03, 0.05, 0.1, 0.2), 0.03, "0.018"),
        ("sigma_rel", (0.03, 0.05, 0.1, 0.2), 0.2, "0.24"),
        ("t_mid", (0.4, 0.6, 0.8, 1.1), 0.4, "0.27"),
        ("t_mid", (0.4, 0.6, 0.8, 1.1), 1.1, "1.5"),
        ("guidance", (1.0, 1.5, 2.0), 2.0, "2.7"),
        ("guidance", (1.0, 1.5, 2.0), 1.0, None),
        ("guidance", (1.0, 1.5, 2.0), 1.5, None),
        ("t_mid", (0.8,), 0.8, None),
    ],
)
def test_a_choice_at_the_edge_names_its_key_and_a_value(name, values, chosen, added):
    rows = [{name: value, "fd": 1.0} for value in values]
    others = {"selection": {"teacher": [{"fd": 1.0}], "scd": rows}, "choices": {"teacher": {}, "scd": {name: chosen}}}
    key = "select.t_mid" if name == "t_mid" else f"select.{name}.student"
    which = "smallest" if chosen == min(values) else "largest"
    line = f"sCD chose {chosen:g}, the {which} candidate of {key}. Add {added} to it."
    assert said(rules.choices_at_the_edge, TEACHER, STUDENT, **others) == ([] if added is None else [line])


def test_models_that_chose_the_same_edge_share_a_line():
    choices = {"teacher": {"sigma_rel": 0.05}, "scd": {"sigma_rel": 0.2}, "sct": {"sigma_rel": 0.2}}
    rows = TEACHER, STUDENT, row_of("sct", 2, 1.4)
    assert said(rules.choices_at_the_edge, *rows, choices=choices) == [
        "The teacher chose 0.05, the smallest candidate of select.sigma_rel.teacher. Add 0.025 to it.",
        "sCD and sCT chose 0.2, the largest candidate of select.sigma_rel.student. Add 0.24 to it.",
    ]


def test_candidates_in_fewer_steps_make_no_edge():
    rows = [{"sigma_rel": value, "steps": 2.0, "fd": 1.0} for value in (0.05, 0.1, 0.2)]
    rows += [{"sigma_rel": 0.1, "guidance": scale, "steps": 1.0, "fd": 2.0} for scale in (1.5, 2.0)]
    assert rules.edges(rows, {"sigma_rel": 0.1, "guidance": 2.0}) == {}

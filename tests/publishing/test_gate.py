"""scm.publishing.gate: every verdict, its boundaries, and its statistics against scipy's test of Welch."""

import dataclasses
import math
import random
import statistics

import pytest
from scipy import stats

from scm.base.noise import welch
from scm.publishing.entry import Entry
from scm.publishing.gate import FEWEST_RANGES, Rules, Verdict, decide

RULES = Rules(allowed=0.0, deviations=2.0)
CHAMPION = (5.0, 5.2, 5.1)
SPREAD = math.sqrt(0.02 / 3)
"""Standard error of the difference between two sides that both spread like CHAMPION; the variance of each is 0.01."""


def entry(distances: tuple[float, ...], name: str = "new", **changes: object) -> Entry:
    figures = {"fd@2": min(distances), "recall@2": 0.9}
    made = Entry(f"key {name}", "scd", 2, {1: (9.0, 9.1, 9.2), 2: distances}, figures, f"weights {name}", "protocol a")
    return dataclasses.replace(made, **changes)


def shifted(by: float) -> tuple[float, ...]:
    return tuple(distance + by for distance in CHAMPION)


def champion(**changes: object) -> Entry:
    return entry(CHAMPION, "old", **{"version": "7", **changes})


@pytest.mark.parametrize(
    ("by", "rules", "kind", "reason"),
    [
        (-1.0, RULES, "promoted", "better by more than the noise: fd@2 is 4.1, the champion's 5.1; 2 standard errors"),
        (-2.01 * SPREAD, RULES, "promoted", "better by more than the noise"),
        (-1.99 * SPREAD, RULES, "challenger", "no better than the noise lets one tell"),
        (0.0, RULES, "challenger", "no better than the noise lets one tell"),
        (1.99 * SPREAD, RULES, "challenger", "no better than the noise lets one tell"),
        (2.01 * SPREAD, RULES, "challenger", "worse by more than the noise"),
        (-1.99 * SPREAD, Rules(0.0, 1.9), "promoted", "better by more than the noise"),
        (0.0, Rules(0.1, 2.0), "promoted", "not worse than publish.allowed: 0.1 lets it be"),
        (0.51 - 2.01 * SPREAD, Rules(0.1, 2.0), "promoted", "not worse than publish.allowed"),
        (0.51 - 1.99 * SPREAD, Rules(0.1, 2.0), "challenger", "worse by more than the noise"),
        (-1e-9, Rules(0.0, 0.0), "promoted", "better"),
        (0.0, Rules(0.0, 0.0), "challenger", "no better"),
    ],
)
def test_distances_decide_beyond_their_noise(by: float, rules: Rules, kind: str, reason: str) -> None:
    verdict = decide(entry(shifted(by)), champion(), rules)
    assert verdict.kind == kind and verdict.reasons[0].startswith(reason)
    assert verdict.reasons[1:] == ((UNKNOWN,) if kind == "promoted" else ())
    assert verdict.figures["improvement"] == pytest.approx(-by, abs=1e-9)
    assert verdict.figures["standard_error"] == pytest.approx(SPREAD)


UNKNOWN = (
    "it was not judged if the candidate remembers its training images, for want of fd_held_out@2 and copies@2: set "
    "data.held_out and measure both models so"
)


def remembering(side: Entry, held_out: tuple[float, ...], copies: float, samples: str = '"20Ki"') -> Entry:
    """An entry with figures on images that no training has seen, too."""
    ranges = {f"fd_held_out_{number}@2": distance for number, distance in enumerate(held_out)}
    figures = {**side.figures, **ranges, "fd_held_out@2": min(held_out), "copies@2": copies}
    return dataclasses.replace(side, figures=figures, parts={"evaluate.samples": samples})


FOUND = math.sqrt((0.05 * 0.95 + 0.06 * 0.94) / 10_000)
"""Standard error of the difference between shares of 0.05 and 0.06 of 10,000 samples."""


@pytest.mark.parametrize(
    ("by", "held_out", "copies", "rules", "against"),
    [
        (-1.0, -1.0, 0.05, RULES, ()),
        (-1.0, -2.01 * SPREAD, 0.05, RULES, ()),
        (-1.0, -1.99 * SPREAD, 0.05, RULES, ("but on the training images alone: fd_held_out@2 is 8.93",)),
        (-1.0, 1.0, 0.05, RULES, ("but on the training images alone: fd_held_out@2 is 10.1, the champion's 9.1; ",)),
        (-1.0, -1.0, 0.06, Rules(0.0, 1.01 * 0.01 / FOUND), ()),
        (-1.0, -1.0, 0.06, Rules(0.0, 0.99 * 0.01 / FOUND), ("but it copies more",)),
        (-1.0, 0.0, 0.30, RULES, ("but on the training", "but it copies more training images: copies@2 is 0.3, the ")),
        (-1.0, -1.0, 0.06, RULES, ("but it copies more training images: copies@2 is 0.06, the champion's 0.05; ",)),
        (-1.0, -1.0, 0.01, RULES, ()),
        (0.0, 0.1, 0.05, Rules(0.1, 2.0), ()),
        (0.0, 1.0, 0.05, Rules(0.1, 2.0), ("but on the training images alone: ",)),
    ],
)
def test_what_is_owed_to_memory_promotes_nobody(by, held_out, copies, rules, against) -> None:
    there = tuple(distance + 4 for distance in CHAMPION)
    new = remembering(entry(shifted(by)), tuple(each + held_out for each in there), copies)
    old = remembering(champion(), there, 0.05)
    verdict = decide(new, old, rules)
    assert verdict.kind == ("challenger" if against else "promoted")
    assert len(verdict.reasons) == 1 + len(against)
    assert all(map(str.startswith, verdict.reasons[1:], against)), verdict.reasons
    assert verdict.figures["held_out_improvement"] == pytest.approx(-held_out)
    assert verdict.figures["copied_more"] == pytest.approx(copies - 0.05)


def test_what_only_one_side_has_measured_is_not_judged() -> None:
    there = tuple(distance + 4 for distance in CHAMPION)
    remembered = remembering(entry(shifted(-1.0)), there, 0.9)
    assert decide(remembered, champion(), RULES).reasons[1:] == (UNKNOWN,)
    held_out = remembering(champion(), there, 0.05)
    del held_out.figures["copies@2"]
    verdict = decide(remembered, held_out, RULES)
    assert verdict.kind == "challenger" and "for want of copies@2: " in verdict.reasons[-1]


def test_ranges_without_any_spread_need_no_more_than_to_be_better() -> None:
    still = entry((5.0, 5.0), "old", version="7")
    assert decide(entry((5.0, 5.0)), still, RULES).kind == "challenger"
    assert decide(entry((4.99, 4.99)), still, RULES).kind == "promoted"
    assert decide(entry((5.01, 5.01)), still, RULES).reasons[0].startswith("worse by more than the noise")


@pytest.mark.parametrize("seed", range(5))
def test_the_statistic_is_welchs(seed: int) -> None:
    draws = random.Random(seed)
    first = tuple(draws.gauss(5, 0.2) for _ in range(3 + seed))
    second = tuple(draws.gauss(4.8, 0.05) for _ in range(4))
    difference, error = welch(first, second)
    expected = stats.ttest_ind(first, second, equal_var=False)
    assert difference / error == pytest.approx(expected.statistic)
    assert difference == pytest.approx(statistics.fmean(first) - statistics.fmean(second))
    rules = Rules(0.0, float(expected.statistic))
    either_side = [Rules(0.0, rules.deviations * factor) for factor in (0.999, 1.001)]
    kinds = [decide(entry(second), entry(first, "old", version="1"), each).kind for each in either_side]
    assert kinds == ["promoted" if difference > 0 else "challenger", "challenger"]


def test_no_champion_yet() -> None:
    verdict = decide(entry(CHAMPION), None, RULES)
    assert (verdict.kind, verdict.reasons) == ("first", ("there is no champion yet",))


def test_a_first_champion_of_one_range_is_told_what_that_means_for_the_next() -> None:
    verdict = decide(entry((5.0,)), None, RULES)
    assert verdict.kind == "first" and len(verdict.reasons) == 2
    assert verdict.reasons[1] == (
        "the noise of fd@2 is not known from 1 range of seeds, so the next model cannot replace this one: write "
        "evaluate.repeats: 3, measure this one so and publish it again before the next (docs/retraining.md)"
    )
    first = dataclasses.replace(entry((5.0,), "old"), version="1")
    assert decide(entry((1.0,)), first, RULES).kind == "refused"
    again = dataclasses.replace(entry(CHAMPION, "old"), key="measured anew", protocol="protocol b")
    assert decide(again, first, RULES).kind == "promoted"
    assert (
        decide(entry(shifted(-3), protocol="protocol b"), dataclasses.replace(again, version="2"), RULES).kind
        == "promoted"
    )


@pytest.mark.parametrize("against", [None, champion()], ids=["first", "champion"])
def test_what_is_broken_is_refused_whatever_its_distance(against: Entry | None) -> None:
    better = shifted(-3)
    for value in (math.nan, math.inf):
        verdict = decide(entry(better, figures={"fd@2": 2.0, "recall@2": value}), against, RULES)
        expected = f"recall@2 is {value}, not a finite number: look at the training's curves"
        assert (verdict.kind, verdict.reasons) == ("refused", (expected,))
    verdict = decide(entry(better, health=("train_teacher: samples move away",)), against, RULES)
    expected = "failed health check of the training: train_teacher: samples move away"
    assert (verdict.kind, verdict.reasons) == ("refused", (expected,))


def test_the_same_candidate_changes_nothing_even_if_rules_or_health_have_changed() -> None:
    for same in (
        champion(key="key old"),
        champion(key="another", health=("x",)),
        entry(shifted(-3), "old", health=("x",)),
    ):
        verdict = decide(same, champion(), RULES)
        reason = "the champion, version 7, has these weights and figures"
        assert (verdict.kind, verdict.reasons) == ("unchanged", (reason,))


def test_the_champions_own_weights_may_be_measured_anew() -> None:
    anew = dataclasses.replace(champion(), key="another", protocol="protocol b", distances={2: (50.0,)})
    verdict = decide(anew, champion(), RULES)
    assert verdict.kind == "promoted" and verdict.reasons[0].startswith("the champion's own weights, measured anew")


def test_another_ruler_is_refused_with_what_differs() -> None:
    old = champion(protocol="protocol b", parts={"evaluate.samples": "1797", "sampler.rho": "7.0", "gone": "1"})
    new = entry(shifted(-3), parts={"evaluate.samples": "5391", "sampler.rho": "7.0"})
    verdict = decide(new, old, RULES)
    assert (verdict.kind, len(verdict.reasons)) == ("refused", 1)
    assert verdict.reasons[0] == (
        "not comparable: the champion was measured in another way (evaluate.samples 1797 -> 5391; gone 1 -> -): "
        'measure the champion in the same way and publish that first (docs/retraining.md, "Another ruler")'
    )
    silent = decide(entry(shifted(-3)), champion(protocol="protocol b"), RULES)
    assert "(eval.protocol protocol b -> protocol a)" in silent.reasons[0]
    many = champion(protocol="protocol b", parts={f"sampler.{number}": "1" for number in range(8)})
    assert "sampler.5 1 -> -; 2 more)" in decide(entry(shifted(-3)), many, RULES).reasons[0]


def test_the_champion_must_have_the_figure_that_decides() -> None:
    four = dataclasses.replace(entry(shifted(-3)), distances={4: (1.0, 2.0)}, evaluations=4)
    verdict = decide(four, champion(), RULES)
    assert verdict.kind == "refused"
    assert verdict.reasons[0].startswith("not comparable: the champion has no fd@4, only fd@1, fd@2: write one of them")


@pytest.mark.parametrize(("ours", "theirs"), [((1.0,), CHAMPION), ((1.0, 2.0), (5.0,)), ((1.0,), (5.0,))])
def test_one_range_of_seeds_says_nothing_of_the_noise(ours: tuple[float, ...], theirs: tuple[float, ...]) -> None:
    verdict = decide(entry(ours), entry(theirs, "old", version="7"), RULES)
    assert verdict.kind == "refused"
    assert "noise of fd@2 is not known from 1 range of seeds: write evaluate.repeats: 3" in verdict.reasons[0]


def test_weights_that_a_person_took_back_are_not_promoted_again() -> None:
    verdict = decide(entry(shifted(-3), rolled_back="9"), champion(), RULES)
    assert verdict.kind == "challenger" and "`scm rollback --to 9`" in verdict.reasons[0]


def test_one_more_range_than_needed_is_no_matter_and_the_fewest_suffice() -> None:
    two, three = (5.0, 5.2), (5.0, 5.2, 5.1)
    assert len(two) == FEWEST_RANGES
    for distances in (two, three):
        assert decide(entry(distances), None, RULES).reasons == ("there is no champion yet",)
    there = (9.0, 9.2)
    verdict = decide(remembering(entry((4.0, 4.2)), (8.0, 8.2), 0.0), remembering(champion(), there, 0.0), RULES)
    assert verdict.kind == "promoted" and verdict.figures["held_out_improvement"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"key": "key old"}, True),
        ({"weights": "weights old", "distances": {1: (9.0, 9.1, 9.2), 2: CHAMPION}}, True),
        ({"weights": "weights old", "protocol": "protocol b", "distances": {1: (9.0, 9.1, 9.2), 2: CHAMPION}}, False),
        ({"weights": "weights old"}, False),
        ({"distances": {1: (9.0, 9.1, 9.2), 2: CHAMPION}}, False),
    ],
)
def test_nothing_is_new_with_the_same_weights_protocol_and_distances_together(changes, same) -> None:
    verdict = decide(dataclasses.replace(entry(shifted(-1.0)), **changes), champion(), RULES)
    assert (verdict.kind == "unchanged") == same


def test_figures_of_a_verdict_have_their_names_and_values() -> None:
    there = tuple(distance + 4 for distance in CHAMPION)
    new = remembering(entry(shifted(-1.0)), tuple(each - 1.0 for each in there), 0.06)
    figures = decide(new, remembering(champion(), there, 0.05), Rules(0.1, 2.0)).figures
    expected = {
        "candidate_mean": 4.1, "champion_mean": 5.1, "improvement": 1.0, "standard_error": SPREAD,
        "needed": 2 * SPREAD - 0.51, "held_out_improvement": 1.0, "held_out_needed": 2 * SPREAD - 0.91,
        "copied_more": 0.01, "copied_more_allowed": 2 * FOUND,
    }  # fmt: skip
    assert figures == pytest.approx(expected)


def test_a_part_that_one_side_does_not_have_is_told_by_a_dash() -> None:
    there, here = {"protocol": "b" * 20, "parts": {"old": "1"}}, {"protocol": "a" * 20, "parts": {"new": "2"}}
    reasons = decide(entry(CHAMPION, **here), champion(**there), RULES).reasons
    assert "(new - -> 2; old 1 -> -)" in reasons[0]
    unknown = decide(entry(CHAMPION, protocol="a" * 20), champion(protocol="b" * 20), RULES).reasons
    assert f"(eval.protocol {'b' * 12} -> {'a' * 12})" in unknown[0]


def test_weights_that_were_rolled_back_are_named_with_the_way_back() -> None:
    verdict = decide(entry(shifted(-1.0), rolled_back="3"), champion(), RULES)
    told = "version 3 with these weights was rolled back, so they are not promoted: "
    assert verdict == Verdict("challenger", (f"{told}`scm rollback --to 3` makes it the champion again",))


def test_on_the_boundary_a_distance_is_not_better() -> None:
    same = decide(entry(CHAMPION), champion(), Rules(0.1, 0.0))
    assert same.kind == "promoted" and same.reasons[0].startswith("not worse than publish.allowed")
    there = tuple(distance + 4 for distance in CHAMPION)
    new, old = remembering(entry(shifted(-1.0)), there, 0.0), remembering(champion(), there, 0.0)
    assert "but on the training images alone" in decide(new, old, Rules(0.0, 0.0)).reasons[1]


def test_copies_of_an_unknown_number_of_samples_are_not_judged() -> None:
    there = tuple(distance + 4 for distance in CHAMPION)
    new = dataclasses.replace(remembering(entry(shifted(-1.0)), tuple(each - 1 for each in there), 0.9), parts={})
    verdict = decide(new, remembering(champion(), there, 0.05), RULES)
    assert verdict.kind == "promoted" and "for want of copies@2: " in verdict.reasons[-1]

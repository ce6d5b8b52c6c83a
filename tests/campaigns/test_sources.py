"""Damages the files of every source: a changed byte or a cut. No file is lost without a word."""

import pytest

from tests.support.damage import SETS, campaign


@pytest.mark.campaign
def test_no_file_of_a_source_is_lost_without_a_word(tmp_path, table):
    counted = table("sources", "source", "damages", "refused in one line", "files left out", "all taken", align="lrrrr")
    for number, kind in enumerate(SETS):
        outcomes = campaign(kind, tmp_path / str(number), 500)
        counted.add(kind, sum(outcomes.values()), *(outcomes[each] for each in ("refused", "left out", "taken")))


@pytest.mark.long
@pytest.mark.parametrize("kind", SETS)
def test_a_few_damages_lose_no_file_without_a_word(kind, tmp_path):
    campaign(kind, tmp_path, 30, seed=1)

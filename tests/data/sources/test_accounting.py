"""Every source: files in = images + files that are listed as skipped, or all is refused, whatever is damaged."""

import pytest

from scm.base.registry import names
from scm.data.reading.source import SOURCES
from tests.support.damage import SETS, campaign


def test_every_source_that_reads_files_is_damaged():
    assert {kind.split(",")[0] for kind in SETS} >= set(names(SOURCES)) - {"digits"}


@pytest.mark.parametrize("kind", SETS)
def test_no_file_is_lost_without_a_word(tmp_path, kind):
    outcomes = campaign(kind, tmp_path, 40)
    assert outcomes.total() == 40 and outcomes["refused"] + outcomes["left out"] > 0

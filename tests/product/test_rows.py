"""Rows out of JSON: MLflow's forms are read; everything that JSON leaves open is refused in a line."""

import json
import time
from typing import Any

import pytest

from scm.errors import UserError
from scm.product.rows import COMMAS_PER_ROW, rows_of

ROW = {"class": "one", "seed": 3, "steps": None, "guidance": 1.5}


def read(content: Any, max_rows: int = 4) -> list[dict[str, Any]]:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return rows_of(body, max_rows)


@pytest.mark.parametrize(
    "content",
    [
        {"dataframe_records": [ROW, ROW]},
        {"dataframe_records": [ROW, ROW], "params": {}},
        {"dataframe_split": {"columns": list(ROW), "index": [0, 1], "data": [list(ROW.values())] * 2}},
        {"inputs": [ROW, ROW]},
        {"instances": [ROW, ROW]},
        {"inputs": {name: [value, value] for name, value in ROW.items()}},
    ],
    ids=["records", "empty params", "split", "inputs", "instances", "columns"],
)
def test_the_forms_of_mlflows_servers_are_rows(content):
    assert read(content) == [ROW, ROW]


def test_names_beyond_ascii_are_read():
    assert read('{"inputs": [{"class": "\\ud83d\\ude00 größe 数", "seed": 1}]}'.encode())[0]["class"] == "😀 größe 数"


def of_row(text: str) -> bytes:
    return b'{"inputs": [{"seed": ' + text.encode() + b"}]}"


NO_JSON = "body: not valid JSON: "
REFUSED = {
    "nothing": (b"", NO_JSON),
    "text": (b"nonsense", NO_JSON),
    "latin": ('{"inputs": [{"class": "größe"}]}'.encode("latin-1"), f"{NO_JSON}not UTF-8"),
    "utf-16": ('{"inputs": []}'.encode("utf-16"), f"{NO_JSON}not UTF-8"),
    "encoded surrogate": (b'{"inputs": [{"class": "\xed\xa0\x80"}]}', f"{NO_JSON}not UTF-8"),
    "surrogate": (of_row('"\\ud800"'), "row 0: seed: half a character"),
    "nested lists": (b"[" * 2**20, "body: nested too deeply"),
    "nested objects": (b'{"a":' * 2**17, "body: nested too deeply"),
    "nested within": (of_row("[" * 900 + "]" * 900), "row 0: seed: must be one value"),
    "object": (of_row("{}"), "row 0: seed: must be one value"),
    "digits": (of_row("9" * 5000), "body: a number of 5,000 characters; at most 20 are read"),
    "negative": (of_row("-" + "9" * 5000), "body: a number of 5,001 characters; at most 20 are read"),
    "NaN": (of_row("NaN"), "body: NaN is not a finite number; use null"),
    "infinite": (of_row("-Infinity"), "body: -Infinity is not a finite number"),
    "too large": (of_row("1e999"), "body: 1e999 is not a finite number"),
    "twice": (b'{"inputs": [{"seed": 1, "seed": 2}]}', "seed: given twice in one object; give it once"),
    "two bodies": (b'{"inputs": [{"seed": 1}]} {}', NO_JSON),
    "list": (
        [ROW],
        "body: must be an object with exactly one of dataframe_records, dataframe_split, inputs, instances",
    ),
    "number": (5, "body: must be an object with exactly one of"),
    "no form": ({"rows": [ROW]}, "body: must be an object with exactly one of"),
    "two forms": ({"inputs": [ROW], "instances": [ROW]}, "body: must be an object with exactly one of"),
    "further": ({"inputs": [ROW], "more": 1}, "more: unknown; the body holds inputs alone"),
    "params": ({"inputs": [ROW], "params": {"a": 1}}, "params: unknown; the body holds inputs alone"),
    "no rows": ({"inputs": []}, "0 rows: a request takes 1 to 4"),
    "null rows": ({"inputs": None}, "inputs: must be a list"),
    "rows as text": ({"dataframe_records": "rows"}, "dataframe_records: must be a list"),
    "columns as records": ({"dataframe_records": {"seed": [1]}}, "dataframe_records: must be a list"),
    "row of another kind": ({"inputs": [ROW, 5]}, "row 1: must be an object"),
    "too many": ({"inputs": [ROW] * 5}, "5 rows: a request takes 1 to 4"),
    "far too many": ({"inputs": [ROW] * 5000}, "body: 19,999 commas, too many rows or values; a request takes 1 to 4"),
    "too many columns": ({"inputs": {"seed": [1] * 5}}, "5 rows: a request takes 1 to 4"),
    "uneven columns": ({"inputs": {"seed": [1], "class": [1, 2]}}, "inputs: must be lists of one length"),
    "no columns": ({"inputs": {}}, "inputs: must be lists of one length"),
    "split list": ({"dataframe_split": [ROW]}, "dataframe_split: must be an object with columns and data"),
    "split twice": ({"dataframe_split": {"columns": ["seed"] * 2, "data": [[1, 2]]}}, "dataframe_split: columns: must"),
    "split names": ({"dataframe_split": {"columns": [[]], "data": [[1]]}}, "dataframe_split: columns: must be"),
    "split short": ({"dataframe_split": {"columns": ["seed"], "data": [[]]}}, "row 0: must be a list of 1 values"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_everything_else_is_refused_in_a_line(content, message):
    with pytest.raises(UserError) as caught:
        read(content)
    assert str(caught.value).startswith(message) and str(caught.value).isprintable()


def test_what_a_body_of_one_mebibyte_costs_is_bounded():
    """Rows are counted before they are parsed, and all that is left to parse is long texts and deep nests."""
    longest = {"inputs": [{"class": "x" * (2**20 - 100), "seed": 1}]}
    many = b'{"inputs": [' + b",".join([b"{}"] * 2**18) + b"]}"
    commas = {"inputs": [{"class": "," * COMMAS_PER_ROW, "seed": 1}]}
    began = time.process_time()
    assert read(longest) == longest["inputs"] and read(commas) == commas["inputs"]
    with pytest.raises(UserError, match="too many rows"):
        rows_of(many, 4)
    assert time.process_time() - began < 0.5

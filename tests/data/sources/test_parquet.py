"""Parquet files in the layout of Hugging Face's `datasets`, written here by hand with pyarrow."""

import io
import json
import random
import threading

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from scm.data.reading import row_groups
from scm.data.reading.images import Cropped, read_cropped
from scm.data.reading.source import Wanted, open_source
from scm.errors import UserError
from tests.support.pictures import MAX_PIXELS, make, picture, read, refused

COUNT = 23
PICTURES = [picture(seed, suffix=("PNG", "JPEG")[seed % 2]) for seed in range(COUNT)]
LABELS = [number % 3 for number in range(COUNT)]
NAMES = ["plane", "car", "bird"]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
FEATURES = {"img": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}


def table(pictures=PICTURES, labels=LABELS, features=FEATURES, image="img", label="label", kind=STRUCT, info=None):
    """A table as `datasets` makes it; `features` None = without its metadata."""
    if kind == STRUCT:
        pictures = [each if isinstance(each, dict | None) else {"bytes": each, "path": "1.png"} for each in pictures]
    columns = {image: pa.array(pictures, kind)}
    if labels is not None:
        columns[label] = labels if isinstance(labels, pa.Array) else pa.array(labels, pa.int64())
    made = pa.table(columns)
    if info is None and features is not None:
        info = json.dumps({"info": {"features": features}}).encode()
    return made if info is None else made.replace_schema_metadata({b"huggingface": info})


def write(path, made=None, rows=5, **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table() if made is None else made, path, row_group_size=rows, **settings)
    return path


def listed(path, **settings):
    return read(path, source="parquet", **settings)


def refusal(path, **settings):
    return refused(path, source="parquet", **settings)


def opened(path, labels=True, on_bad_image="error", max_pixels=MAX_PIXELS):
    return open_source(Wanted("parquet", path, labels, max_pixels, on_bad_image))


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What the same images give in a folder, in the order of the rows."""
    folder = make(tmp_path_factory.mktemp("x"), {f"{n:03d}.png": data for n, data in enumerate(PICTURES)})
    return [(key, pixels) for key, pixels, _ in read(folder, labels=False)[0]]


def same(samples, expected):
    assert [key for key, _, _ in samples] == [key for key, _ in expected]
    return all(np.array_equal(pixels, other) for (_, pixels, _), (_, other) in zip(samples, expected, strict=True))


@pytest.mark.parametrize("settings", [
    {}, {"rows": 1}, {"rows": 100}, {"compression": "zstd"}, {"compression": "none"}, {"use_dictionary": False},
    {"data_page_size": 100, "data_page_version": "2.0"}, {"write_page_checksum": True, "write_page_index": True},
    {"compression": "gzip"}, {"compression": "brotli"}, {"compression": "lz4"},
], ids=str)  # fmt: skip
def test_images_labels_and_names_are_read(tmp_path, expected, settings):
    samples, classes, skipped = listed(write(tmp_path / "train-00000-of-00001.parquet", **settings))
    assert same(samples, expected) and [label for _, _, label in samples] == LABELS
    assert classes == NAMES and skipped == []


def test_several_files_are_read_in_the_order_of_their_names(tmp_path, expected):
    for number, (start, stop) in enumerate([(0, 7), (7, 7), (7, 19), (19, COUNT)]):
        part = table(PICTURES[start:stop], LABELS[start:stop])
        write(tmp_path / f"data/plain_text/train-{number:05d}-of-00004.parquet", part)
    make(tmp_path, {"README.md": b"-", ".cache/x.parquet": b"-"})
    for path in (tmp_path, tmp_path / "data"):
        samples, classes, skipped = listed(path)
        assert same(samples, expected) and [label for _, _, label in samples] == LABELS and classes == NAMES
        assert {entry["file"] for entry in skipped} == (
            {"README.md", ".cache/x.parquet"} if path == tmp_path else set()
        )
    with opened(tmp_path) as source:
        assert source.file_name(8) == "data/plain_text/train-00002-of-00004.parquet row 1"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()], ids=str)
@pytest.mark.parametrize(
    ("image", "label"), [("image", "label"), ("IMG", "cls"), ("picture", "labels"), ("x", "class")]
)
def test_files_without_the_metadata_are_read_by_types_and_usual_names(tmp_path, expected, kind, image, label):
    made = table(features=None, kind=kind, image=image, label=label)
    made = made.append_column("height", pa.array([10] * COUNT))
    samples, classes, _ = listed(write(tmp_path / "a.parquet", made))
    assert same(samples, expected) and [label for _, _, label in samples] == LABELS and classes == ["0", "1", "2"]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.int32()], ids=str)
def test_labels_of_any_whole_type(tmp_path, kind):
    made = table(labels=pa.array(LABELS, kind))
    assert [label for _, _, label in listed(write(tmp_path / "a.parquet", made))[0]] == LABELS


def test_without_labels_only_images_are_needed(tmp_path, expected):
    for made in (table(labels=None, features=None), table(labels=[-1] * COUNT)):
        samples, classes, _ = listed(write(tmp_path / "a.parquet", made), labels=False)
        assert same(samples, expected) and classes == [] and {label for _, _, label in samples} == {-1}


def test_the_columns_that_the_metadata_names_are_taken(tmp_path):
    made = table().append_column("mask", pa.array([b"-"] * COUNT)).append_column("labels", pa.array([7] * COUNT))
    made = made.append_column("coarse", pa.array([9] * COUNT))
    assert [label for _, _, label in listed(write(tmp_path / "a.parquet", made))[0]] == LABELS


def in_turns(order, threads, path):
    """Reads the images in this order from several threads; returns them by their numbers."""
    with opened(path) as source:
        wanted, found, lock = iter(order), {}, threading.Lock()

        def work():
            while True:
                with lock:
                    number = next(wanted, None)
                if number is None:
                    return
                found[number] = source.load(number).convert("RGB").tobytes()

        workers = [threading.Thread(target=work) for _ in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    return found


@pytest.mark.parametrize("threads", [1, 8])
def test_any_thread_reads_any_image_in_any_order(tmp_path, monkeypatch, threads):
    write(tmp_path / "a.parquet", rows=7)
    write(tmp_path / "b.parquet", rows=100)
    right = [Image.open(io.BytesIO(data)).convert("RGB").tobytes() for data in PICTURES] * 2
    numbers = list(range(2 * COUNT))
    for kept in (row_groups.KEPT_BYTES, 600, 0):
        monkeypatch.setattr(row_groups, "KEPT_BYTES", kept)
        for order in (numbers, numbers[::-1], random.Random(0).sample(numbers, len(numbers)), [5, 5, 5, 30, 6, 29]):
            assert in_turns(order, threads, tmp_path) == {number: right[number] for number in order}


def test_images_in_order_are_read_once(tmp_path, monkeypatch):
    """Threads of the ingest ask for neighbours; a row group is unpacked once and not for each image."""
    starts, start = [], row_groups.Reader._start
    monkeypatch.setattr(row_groups.Reader, "_start", lambda self, group: (starts.append(group), start(self, group)))
    path = write(tmp_path / "a.parquet", rows=5)
    in_turns(range(COUNT), 1, path)
    assert starts == [0, 1, 2, 3, 4]
    with opened(path) as source:
        for number in (3, 1, 0, 4, 2):  # 1 was passed by and waits, as do 0 and 2
            source.load(number)
    assert starts == [0, 1, 2, 3, 4, 0]


def test_listing_reads_no_image(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet")
    monkeypatch.setattr(row_groups.Reader, "_start", lambda *_: pytest.fail("an image was read"))
    with opened(path) as source:
        assert len(source) == COUNT


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "it has no bytes, at most the path of a file elsewhere"),
        ({"bytes": None, "path": "/data/1.png"}, "it has no bytes, at most the path of a file elsewhere"),
        (b"", "the file is empty"),
        (b"broken", "not a readable image"),
        (picture(1, (100, 100)), "claims 100 x 100 pixels"),
    ],
    ids=["null", "path", "empty", "broken", "large"],
)
def test_an_image_that_cannot_be_used_is_named_or_left_out(tmp_path, bad, reason):
    path = write(tmp_path / "a.parquet", table([*PICTURES[:7], bad, *PICTURES[8:]]))
    assert f"{path}: a.parquet row 7: {reason}" in refusal(path)
    samples, _, skipped = listed(path, on_bad_image="skip")
    assert [label for _, _, label in samples] == LABELS[:7] + LABELS[8:] and len(skipped) == 1
    assert skipped[0]["file"] == "a.parquet row 7" and skipped[0]["reason"].startswith(reason)


@pytest.mark.parametrize(("bad", "said"), [(-1, "-1"), (None, "null")])
def test_rows_without_a_label_are_named_or_left_out(tmp_path, bad, said):
    path = write(tmp_path / "a.parquet", table(labels=[*LABELS[:7], bad, *LABELS[8:]]))
    wanted = f"a.parquet row 7: no label ({said}): set data.labels: false, or data.on_bad_image: skip"
    assert wanted in refusal(path)
    samples, _, skipped = listed(path, on_bad_image="skip")
    assert [label for _, _, label in samples] == LABELS[:7] + LABELS[8:]
    assert skipped == [{"file": "a.parquet row 7", "reason": f"no label ({said})"}]
    assert samples[7][0] == "00000007"
    empty = write(tmp_path / "b.parquet", table(labels=[bad] * COUNT))
    assert "no images with a label in it: set data.labels: false" in refusal(empty, on_bad_image="skip")


LONE = table().append_column("other", pa.array(PICTURES, pa.binary()))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (table(labels=[*LABELS[1:], 3]), "row 22 has the label 3, not one of 0 to 2: write it again, or set data."),
        (table(labels=[*LABELS[1:], -2]), "row 22 has the label -2, not one of 0 to 2"),
        (table(features=None, labels=pa.array([*LABELS[1:], 2**63], pa.uint64())), "the label 9223372036854775808,"),
        (table(features=None, labels=[*LABELS[1:], 4]), "no image has the label 3, but one has 4: count labels from 0"),
        (table(labels=[1] * COUNT), "no image has the label 0, which the schema calls plane: write it again with the"),
        (table(labels=None, features=None), "no column of labels: set data.labels: false"),
        (table(labels=pa.array(["a"] * COUNT)), "its column label holds string, and labels are whole numbers"),
        (table(labels=pa.array([1.0] * COUNT)), "its column label holds double, and labels are whole numbers"),
        (table(kind=pa.list_(STRUCT), pictures=[[]] * COUNT), "no column of images: set data.path to files with"),
        (table(kind=pa.string(), pictures=["1.png"] * COUNT), "no column of images: set data.path to files with"),
        (table(features=None, image="x").append_column("y", pa.array(PICTURES)), "x, y are columns of images: write"),
        (table(features=None).append_column("cls", pa.array(LABELS)), "label, cls are columns of labels: write it"),
        (table(features={"label": {"_type": "ClassLabel", "names": ["a", "b", "a"]}}), "calls two classes a: write it"),
        (table(features={"label": {"_type": "ClassLabel", "names": ["a", 3]}}), "has no list of names for its classes"),
        (table(features={"label": {"_type": "ClassLabel", "names": "abc"}}), "has no list of names for its classes"),
        (table(info=b"{"), "the schema's entry huggingface cannot be read (Expecting"),
        (table(info=b"[" * 100_000), "the schema's entry huggingface cannot be read (maximum recursion depth"),
        (table(info=b'{"info": ' + b"1" * 5000 + b"}"), "huggingface cannot be read (Exceeds the limit (4300"),
        (table(info=b"[]"), "huggingface cannot be read ('list' object"),
        (table(info=b'{"info": {"features": [1]}}'), "huggingface cannot be read ('list' object"),
        (table(info=b"\xff"), "huggingface cannot be read ('utf-8' codec"),
        (pa.Table.from_arrays([pa.array(PICTURES)] * 2, ["image", "image"]), "two columns have one name"),
        (table([], []), "no images with a label in it: set data.labels: false, or another data.path"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_does_not_fit_is_refused(tmp_path, made, message):
    assert message in refusal(write(tmp_path / "a.parquet", made))


def test_files_of_two_kinds_are_refused(tmp_path):
    write(tmp_path / "a.parquet")
    write(tmp_path / "b.parquet", table(features={"label": {"_type": "ClassLabel", "names": ["a", "b", "c"]}}))
    message = refusal(tmp_path)
    assert f"{tmp_path / 'b.parquet'}: its columns or classes are not those of a.parquet: put one data" in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["data/train-00000-of-00001.parquet", "data/test-00000-of-00001-0a1b.parquet"],
            "move the files of all but one",
        ),
        (["x/train/0000.parquet", "x/validation/0000.parquet"], "move the files of all but one"),
        (["mnist_train.parquet", "mnist_test.parquet"], "move the files of all but one"),
        (["default/partial-train/0.parquet", "default/partial-test/0.parquet"], "move the files of all but one"),
        (["train/0000.parquet", "test/0000.parquet"], "set data.path to one of their folders"),
    ],
)
def test_splits_are_not_mixed(tmp_path, names, message):
    for name in names:
        write(tmp_path / name)
    assert "holds the splits" in refusal(tmp_path) and message in refusal(tmp_path)
    assert len(listed(tmp_path / names[0])[0]) == COUNT


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ([0, 2, 3], "data/train-00001-of-00004"),
        ([0, 1], "data/train-00002-of-00004"),
        ([1, 2, 3], "data/train-00000-of-00004"),
        ([1, 2, 4], "data/train-00003-of-00004"),
    ],
)
def test_a_file_that_is_missing_by_the_names_of_the_others_is_named(tmp_path, there, missing):
    for number in there:
        write(tmp_path / f"data/train-{number:05d}-of-00004.parquet")
    assert f"{missing} is missing, by the names of the others: fetch it, or rename" in refusal(tmp_path)


def test_files_that_are_numbered_from_1_on_are_all_there(tmp_path):
    for number in (1, 2):
        write(tmp_path / f"v2-of-7x/a-{number:05d}-of-00002.parquet")
    write(tmp_path / "best-10-of-100.parquet")  # a name, and no number of files
    assert len(listed(tmp_path)[0]) == 3 * COUNT


def test_paths_that_hold_no_parquet_are_refused(tmp_path):
    assert "does not exist: set data.path to" in refusal(tmp_path / "nowhere")
    make(tmp_path, {"data-00000-of-00001.arrow": b"-", "a.txt": b"-", "empty/x.txt": b"-"})
    assert "no .parquet files in it: write the .arrow files again with to_parquet" in refusal(tmp_path)
    assert "no .parquet files in it: set data.path to a folder with some" in refusal(tmp_path / "empty")
    assert "is no .parquet file: set data.path to one, or to a folder of them" in refusal(tmp_path / "a.txt")


@pytest.mark.parametrize(
    "content", [b"", b"PAR1", b"PAR1" * 5, b"nonsense" * 20, b"PAR1" + bytes(99) + b"\xff" * 4 + b"PAR1"]
)
def test_a_file_that_is_no_parquet_is_named(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    assert "a.parquet cannot be read as Parquet (" in refusal(tmp_path / "a.parquet")


@pytest.mark.parametrize("settings", [{}, {"write_page_checksum": True}, {"compression": "none", "rows": 100}], ids=str)
def test_a_damaged_byte_loses_no_row_silently(tmp_path, settings):
    """Each row is there or is listed as left out, or the file is refused in one line, whatever byte is damaged."""
    whole = write(tmp_path / "a.parquet", **{"rows": 8, **settings}).read_bytes()
    draws, outcomes = random.Random(0), {"whole": 0, "left out": 0, "refused": 0}
    places = [draws.randrange(len(whole)) for _ in range(60)] + [
        draws.randrange(len(whole) - 3500, len(whole)) for _ in range(60)
    ]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draws.randrange(8)
        (tmp_path / "a.parquet").write_bytes(damaged)
        outcomes[outcome(tmp_path / "a.parquet")] += 1
    for size in draws.sample(range(len(whole)), 10):
        (tmp_path / "a.parquet").write_bytes(whole[:size])
        assert outcome(tmp_path / "a.parquet") == "refused"
    assert all(outcomes.values())


def outcome(path):
    try:
        with opened(path, on_bad_image="skip") as source:
            results = [read_cropped(source, number, 8, 3) for number in range(len(source))]
            assert len(results) + len(source.skipped) == COUNT
            return "whole" if all(isinstance(result, Cropped) for result in results) else "left out"
    except UserError as error:
        assert "\n" not in str(error)
        return "refused"


def test_after_a_damage_the_rest_of_the_row_group_is_left_out_and_the_next_is_read(tmp_path):
    path = write(tmp_path / "a.parquet", rows=5, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    path.write_bytes(content.replace(PICTURES[6][-30:-4], bytes(26)))
    samples, _, skipped = listed(path, on_bad_image="skip")
    assert [key for key, _, _ in samples] == [f"{number:08d}" for number in (*range(5), *range(10, COUNT))]
    assert [entry["file"] for entry in skipped] == [f"a.parquet row {row}" for row in range(5, 10)]
    assert all("crc" in entry["reason"].lower() for entry in skipped)
    assert "a.parquet row 5: broken image (" in refusal(path)


def test_a_page_that_grows_without_end_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "FREE_BYTES", 2**16)
    zeros = [bytes(2**20)] * 4
    path = write(tmp_path / "a.parquet", table(zeros, [0, 1, 2, 0]), compression="zstd", use_dictionary=False)
    monkeypatch.setattr(row_groups, "_values", lambda *_: pytest.fail("a page was unpacked"))
    assert path.stat().st_size < 20_000 and "claims to grow from" in refusal(path, max_pixels=2**20)


def test_a_large_value_for_all_rows_is_unpacked_once_at_a_time(tmp_path):
    """A dictionary holds one image of 4 MB, of which a million rows would be 4 TB."""
    flat = io.BytesIO()
    Image.new("RGB", (1200, 1200), "red").save(flat, "BMP")
    image = pa.DictionaryArray.from_arrays(pa.array([0] * 3000, pa.int32()), pa.array([flat.getvalue()]))
    made = pa.table({"image": image, "label": pa.array([0] * 3000)})
    settings = {"compression": "zstd", "dictionary_pagesize_limit": 2**24, "store_schema": False}
    path = write(tmp_path / "a.parquet", made, rows=3000, **settings)
    assert path.stat().st_size < 2**17
    before = pa.total_allocated_bytes()
    with opened(path, max_pixels=2**21) as source:
        assert len(source) == 3000 and source.load(2).size == (1200, 1200)
        assert pa.total_allocated_bytes() - before < 2**25


def test_a_file_that_claims_more_rows_than_it_can_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("scm.data.sources.parquet.FREE_ROWS", 10)
    made = table([b"-"] * 40_000, [0] * 40_000)
    path = write(tmp_path / "a.parquet", made, rows=40_000)
    assert path.stat().st_size < 10_000 and "cannot be read as Parquet (it claims 40,000 rows)" in refusal(path)

"""Rows of a request beyond one sample: between two samples, and edits of a picture, with every refusal by its text."""

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from PIL import Image

from scm import cli
from scm.product.model import ImageModel, Product
from scm.product.serving import described
from tests.support.serving import exchange, request, served

HOLE = np.zeros((8, 8), dtype=bool)
HOLE[4:] = True
PICTURE = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
BETWEEN = {"class": "one", "seed": 3, "to_class": "two", "to_seed": 4, "fraction": 0.25}


@pytest.fixture(scope="module")
def product(packed):
    return Product(packed / "artifacts/product", max_rows=8, max_steps=20, device="cpu")


def png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


GIVEN, MASK = png(PICTURE), png(HOLE.astype(np.uint8) * 255)
INPAINT = {"class": "two", "seed": 5, "task": "inpaint", "image": GIVEN, "mask": MASK}


def drawn(product: Product, *rows: dict) -> np.ndarray:
    answers = product.draw(product.wishes(list(rows)))
    images = [Image.open(io.BytesIO(base64.b64decode(answer["png"]))) for answer in answers]
    return np.stack([np.asarray(image) for image in images])


def told(product: Product, row: dict) -> dict[str, str]:
    (answer,) = product.draw(product.wishes([row]))
    with Image.open(io.BytesIO(base64.b64decode(answer["png"]))) as image:
        return {**image.text, "evaluations": answer["evaluations"]}  # type: ignore[attr-defined]


def cells(path, columns: int) -> np.ndarray:
    with Image.open(path) as picture:
        pixels = np.asarray(picture)[1:, 1:, 0]
    side = pixels.shape[1] // columns
    rows = [pixels[row : row + side - 1 : (side - 1) // 8] for row in range(0, len(pixels), side)]
    return np.stack(
        [row[:, at : at + side - 1 : (side - 1) // 8] for row in rows for at in range(0, columns * side, side)]
    )


def test_places_between_samples_are_the_frames_of_scm_sample(product, project, monkeypatch, tmp_path):
    monkeypatch.chdir(project.root)
    strip = tmp_path / "strip.png"
    options = ["--model=scd", "--steps=2", "--classes=two,zero", "-n=2", "--seed=5", "--interpolate=4", "--device=cpu"]
    assert cli.main(["sample", *options, f"-o={strip}"]) == 0
    ways = [("two", 5, "zero", 6), ("zero", 6, "two", 5)]
    names = ("class", "seed", "to_class", "to_seed")
    rows = [{**dict(zip(names, way, strict=True)), "fraction": step / 4} for way in ways for step in range(4)]
    assert (drawn(product, *rows) == cells(strip, 4)).all()
    ends = drawn(product, {**rows[0], "fraction": 1}, {"class": "zero", "seed": 6}, {"class": "two", "seed": 5})
    assert (ends[0] == ends[1]).all() and (drawn(product, rows[0]) == ends[2]).all()
    assert told(product, BETWEEN) == {
        "model": "scd", "commit": "3f2a9c1e5b + changes", "seed": "3", "class": "one", "steps": "2", "guidance": "1.0",
        "t_mid": "0.8", "to seed": "4", "to class": "two", "fraction": "0.25", "evaluations": 2,
    }  # fmt: skip


def test_edits_are_those_of_scm_edit(product, project, monkeypatch, tmp_path):
    """Rows of one picture and others come back in order."""
    monkeypatch.chdir(project.root)
    for name, text in (("given", GIVEN), ("mask", MASK)):
        (tmp_path / f"{name}.png").write_bytes(base64.b64decode(text))
    common = ["--model=scd", "--classes=two", "-n=2", "--seed=5", "--device=cpu", str(tmp_path / "given.png")]
    expected = {}
    for task, further in (
        ("inpaint", [f"--mask={tmp_path / 'mask.png'}"]),
        ("upscale", ["--factor=4"]),
        ("stroke", []),
    ):
        out = tmp_path / f"{task}.png"
        assert cli.main(["edit", f"--task={task}", *further, f"-o={out}", *common]) == 0
        expected[task] = cells(out, 3)[1:]
    upscale = {"class": 2, "seed": 6, "task": "upscale", "image": GIVEN, "factor": 4}
    stroke = {"class": 2, "seed": 6, "task": "stroke", "image": GIVEN}
    plain = {"class": "two", "seed": 5}
    found = drawn(product, INPAINT, upscale, plain, stroke, {**INPAINT, "seed": 6})
    assert (found[[0, 4]] == expected["inpaint"]).all() and (found[0][~HOLE] == PICTURE[~HOLE]).all()
    assert (found[1] == expected["upscale"][1]).all() and (found[3] == expected["stroke"][1]).all()
    assert (found[2] == drawn(product, plain)[0]).all()
    assert told(product, INPAINT) == {
        "model": "scd", "commit": "3f2a9c1e5b + changes", "seed": "5", "class": "two", "steps": "10",
        "guidance": "1.0", "task": "inpaint", "evaluations": 10,
    }  # fmt: skip


def test_the_page_is_told_what_can_be_edited(product):
    about = described(product)
    assert (about["tasks"], about["image"]) == (["inpaint", "upscale", "stroke"], (1, 8))


EDITS = "inpaint, colour, upscale, stroke"
REFUSED = [
    (BETWEEN, {"to_seed": None}, "to_seed: missing; give the seed of the sample that fraction 1 is"),
    (BETWEEN, {"to_seed": -1}, "to_seed -1: must be between 0 and 9223372036854775807"),
    (BETWEEN, {"to_seed": "4"}, "to_seed '4': must be a whole number"),
    (BETWEEN, {"to_class": "four"}, "to_class four: no such class; this model has zero, one, two (or numbers 0 to 2)"),
    (BETWEEN, {"fraction": None}, "fraction missing: must be a number from 0 (this sample) to 1 (that of to_seed)"),
    (BETWEEN, {"fraction": 1.5}, "fraction 1.5: must be a number from 0 (this sample) to 1 (that of to_seed)"),
    (BETWEEN, {"fraction": True}, "fraction True: must be a number from 0 (this sample) to 1 (that of to_seed)"),
    (BETWEEN, {"fraction": "x"}, "fraction 'x': must be a number from 0 (this sample) to 1 (that of to_seed)"),
    (BETWEEN, {"task": "stroke"}, "to_class: an edit leads to no other sample; leave it out, or task"),
    (INPAINT, {"task": None}, f"task: missing; give {EDITS}"),
    (INPAINT, {"task": 3}, f"task: missing; give {EDITS}"),
    (INPAINT, {"task": "paint"}, f"task paint: no such task; choose from {EDITS}"),
    (
        INPAINT, {"task": "colour", "mask": None},
        "task colour: this model draws grey images; use inpaint, upscale or stroke",
    ),
    (INPAINT, {"task": "stroke"}, "mask: only task inpaint takes one; leave it out"),
    (INPAINT, {"mask": None}, "task inpaint: needs mask, a picture of its size that is white where pixels are missing"),
    (INPAINT, {"image": None}, "image: missing; give the file of a picture, such as a PNG, in base64"),
    (INPAINT, {"image": 7}, "image: missing; give the file of a picture, such as a PNG, in base64"),
    (INPAINT, {"image": "not base64!"}, "image: not in base64; send the file of a picture, such as a PNG, in base64"),
    (INPAINT, {"image": "bm8gcGljdHVyZQ=="}, "image: not a readable image; save it as PNG"),
    (INPAINT, {"image": ""}, "image: the file is empty"),
    (INPAINT, {"mask": png(np.zeros((8, 8), dtype=np.uint8))}, "mask: no pixel is white; paint white what is missing"),
    (
        INPAINT, {"mask": png(np.ones((9, 8), dtype=np.uint8))},
        "mask: 8 x 9 pixels, and image 8 x 8; make both of one size",
    ),
    (
        INPAINT, {"image": png(np.zeros((1025, 1024), dtype=np.uint8))},
        "image: 1024 x 1025 pixels; at most 1,048,576 are read: make it smaller",
    ),
    (INPAINT, {"steps": 2}, "steps: an edit has times of its own; leave it out"),
    (INPAINT, {"class": None}, "class: missing; give a name, or a number from 0 to 2"),
    (
        INPAINT, {"task": "upscale", "mask": None, "factor": 3},
        "factor 3: must divide the 8 pixels of a side, and be 2 or more",
    ),
    (INPAINT, {"guidance": 2.0}, "guidance 2: scd was not trained for guidance; leave the option out"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "changes", "message"), REFUSED)
def test_rows_that_cannot_be_drawn_are_bad_requests(product, row, changes, message):
    model = ImageModel()
    model.product = product
    with pytest.raises(MlflowException) as caught:
        model.predict(None, pd.DataFrame([{**row, **changes}], dtype=object))
    assert (caught.value.message, caught.value.get_http_status_code()) == (f"row 0: {message}", 400)


def test_a_model_that_cannot_edit_says_so(product, monkeypatch):
    models = {role: (model, dict(header)) for role, (model, header) in product._models.items()}
    models["student"][1]["sampling"] = {1: {"guidance_scale": 1.0}}
    monkeypatch.setattr(product, "_models", models)
    assert product.tasks == []
    with pytest.raises(Exception, match=r"^task: scd cannot edit: it does not jump to the data from any time; "):
        product.wish(INPAINT)
    monkeypatch.setattr(product, "_models", {"teacher": models["teacher"]})
    assert product.tasks == []
    with pytest.raises(Exception, match=r"^task: this model is a teacher, which cannot edit$"):
        product.wish(INPAINT)


def test_the_server_draws_and_refuses_edits(product):
    with served(product) as port:
        good = exchange(port, request(body={"dataframe_records": [INPAINT]}))
        bad = exchange(port, request(body={"dataframe_records": [{**INPAINT, "image": "AAAA"}]}))
        large = exchange(port, request(body={"dataframe_records": [{**INPAINT, "image": "A" * 2**20}]}))
    (answer,) = json.loads(good.text)["predictions"]
    assert good.code == 200 and answer["png"] == product.draw(product.wishes([INPAINT]))[0]["png"]
    assert (bad.code, bad.message) == (400, "row 0: image: not a readable image; save it as PNG")
    assert large.code == 413

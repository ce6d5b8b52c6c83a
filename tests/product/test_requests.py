"""The packaged model: the same images as `scm sample`, and every request that it refuses by its text."""

import base64
import io
import math

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from PIL import Image

from scm import cli
from scm.base import weights
from scm.generation.grids import GAP, scale_for
from scm.params.project import Project
from scm.product.content import MAX_SEED
from scm.product.model import Dropped, ImageModel, Product
from scm.product.packaging import package
from scm.product.serving import described
from tests.support import projects as shipped
from tests.support.models import save_model


@pytest.fixture(scope="module")
def product(packed):
    return Product(packed / "artifacts/product", max_rows=4, max_steps=20, device="cpu")


def pixels(png: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return np.asarray(image)


def sampled(folder, model: str, steps: int, classes: str, count: int, guidance=None) -> list[np.ndarray]:
    """The pictures of `scm sample`, cut out of its grid and reduced to their own pixels."""
    grid = folder / "grid.png"
    command = ["sample", "--model", model, "--steps", str(steps), "--classes", classes, "-n", str(count), "--seed", "5"]
    command += [] if guidance is None else ["--guidance", str(guidance)]
    assert cli.main([*command, "-o", str(grid), "--device", "cpu"]) == 0
    with Image.open(grid) as opened:
        picture = np.asarray(opened.convert("L"))
    scale = scale_for(8)
    cell = 8 * scale + GAP
    rows, columns = (size // cell for size in picture.shape)
    places = [(GAP + row * cell, GAP + column * cell) for row in range(rows) for column in range(columns)]
    return [picture[y : y + 8 * scale : scale, x : x + 8 * scale : scale] for y, x in places[:count]]


@pytest.mark.parametrize(
    ("model", "steps", "guidance"), [("scd", 1, None), ("scd", 2, None), ("teacher", 7, None), ("teacher", 3, 2.0)]
)
def test_the_images_are_those_of_scm_sample(product, project, monkeypatch, tmp_path, model, steps, guidance):
    monkeypatch.chdir(project.root)
    expected = sampled(tmp_path, model, steps, "two,zero", 4, guidance)
    row = {"steps": steps} | ({} if guidance is None else {"guidance": guidance})
    wishes = [product.wish({"class": ["two", 0][i % 2], "seed": 5 + i, **row}) for i in range(4)]
    drawn = product.draw(wishes)
    for answer, image in zip(drawn, expected, strict=True):
        assert pixels(answer["png"]).tobytes() == image.tobytes()
    with Image.open(io.BytesIO(base64.b64decode(drawn[1]["png"]))) as opened:
        told = {"model": model, "commit": "3f2a9c1e5b + changes", "seed": "6", "class": "zero", "steps": str(steps)}
        assert dict(opened.text).items() >= told.items() and "images" not in opened.text  # type: ignore[attr-defined]
    times = {1: 1, 2: 2, 7: 13, 3: 10}  # a guided evaluation is two
    assert {(answer["model"], answer["evaluations"]) for answer in drawn} == {(model, times[steps])}
    assert len({image.tobytes() for image in expected}) == 4 and all(answer["seconds"] > 0 for answer in drawn)


def test_rows_of_all_kinds_are_drawn_together_and_come_back_in_order(product):
    rows = [{"class": "one", "seed": 3, "steps": steps} for steps in (9, 1, 2, 9)]
    together = [answer["png"] for answer in product.draw([product.wish(row) for row in rows])]
    alone = [product.draw([product.wish(row)])[0]["png"] for row in rows]
    assert together == alone and together[0] == together[3]
    assert len({pixels(png).tobytes() for png in together}) == 3


def test_a_drawing_that_is_no_longer_wanted_stops_before_the_next_evaluation(product):
    wishes = [product.wish({"class": 0, "seed": 7, "steps": 10})]
    asked = iter([True] * 4 + [False])
    with pytest.raises(Dropped):
        product.draw(wishes, lambda: next(asked))
    assert next(asked, "all asked") == "all asked"
    wanted = iter([True] * 19)
    first, again = product.draw(wishes, lambda: next(wanted)), product.draw(wishes)
    assert next(wanted, None) is None and first[0]["png"] == again[0]["png"]


def test_a_class_of_five_thousand_digits_is_no_class(monkeypatch, project, capsys):
    monkeypatch.chdir(project.root)
    assert cli.main(["sample", "--model", "scd", "--classes", "9" * 5000, "-o", "grid.png"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        f"scm: error: --classes {'9' * 100}… (5,000 characters): no such class; this model has zero"
    )


def test_what_a_row_leaves_out_is_what_the_package_says(product):
    wish = product.wish({"class": 1, "seed": 2, "steps": math.nan, "guidance": None})
    assert (wish.label, wish.seed, wish.steps, wish.role, wish.guidance) == (1, 2, 2, "student", 1.0)
    assert product.wish({"class": np.int64(2), "seed": np.int64(MAX_SEED), "steps": 20.0}).role == "teacher"


NAMES = "this model has zero, one, two (or numbers 0 to 2)"
STEPS = "scd takes 1 or 2, the teacher 3 to 20"
REFUSED = [
    ({"class": "four"}, f"class four: no such class; {NAMES}"),
    ({"class": "3"}, f"class 3: no such class; {NAMES}"),
    ({"class": 3}, f"class 3: no such class; {NAMES}"),
    ({"class": -1}, f"class -1: no such class; {NAMES}"),
    ({"class": 1.5}, "class 1.5: must be a whole number"),
    ({"class": True}, "class True: must be a whole number"),
    ({"class": [1]}, "class [1]: must be a whole number"),
    ({"class": None}, "class: missing; give a name, or a number from 0 to 2"),
    ({"seed": None}, "seed: missing; give a whole number, such as 0"),
    ({"seed": -1}, f"seed -1: must be between 0 and {MAX_SEED}"),
    ({"seed": MAX_SEED + 1}, f"seed {MAX_SEED + 1}: must be between 0 and {MAX_SEED}"),
    ({"seed": "7"}, "seed '7': must be a whole number"),
    ({"seed": 0.5}, "seed 0.5: must be a whole number"),
    ({"seed": math.inf}, "seed inf: must be a whole number"),
    ({"steps": 0}, f"steps 0: {STEPS}"),
    ({"steps": -1}, f"steps -1: {STEPS}"),
    ({"steps": 21}, f"steps 21: {STEPS}"),
    ({"guidance": 1.5}, "guidance 1.5: scd was not trained for guidance; leave the option out"),
    ({"steps": 5, "guidance": -1.0}, "guidance -1: must be a number from 0 on, such as 1.5"),
    ({"steps": 5, "guidance": 10.5}, "guidance 10.5: must be between 0 and 10"),
    ({"steps": 5, "guidance": "x"}, "guidance 'x': must be a number, such as 1.5"),
    (
        {"colour": "red"},
        "colour: unknown; a row has class, seed, steps, guidance, to_class, to_seed, fraction, task, image, mask, "
        "factor",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_rows_that_cannot_be_drawn_are_bad_requests(product, changes, message):
    model, good = ImageModel(), {"class": "one", "seed": 0}
    model.product = product
    assert len(model.predict(None, pd.DataFrame([good]))) == 1
    rows = [good, {**good, **changes}]
    frame = pd.DataFrame(rows, dtype=object)
    with pytest.raises(MlflowException) as caught:
        model.predict(None, frame)
    assert (caught.value.message, caught.value.get_http_status_code()) == (f"row 1: {message}", 400)


@pytest.mark.parametrize("count", [0, 5])
def test_no_rows_and_too_many_are_bad_requests(product, count):
    model = ImageModel()
    model.product = product
    with pytest.raises(MlflowException, match=rf"^{count} rows: a request takes 1 to 4$") as caught:
        model.predict(None, pd.DataFrame([{"class": 0, "seed": 0}] * count, columns=["class", "seed"]))
    assert caught.value.get_http_status_code() == 400


def packed_as(folder, model: str, changes: dict, headers: dict[str, dict]) -> Product:
    """The package of other models than the fixture's."""
    root = folder / "project"
    root.mkdir()
    shipped.make_project(root)
    (root / "params.yaml").write_text(shipped.render(shipped.values_with(changes)))
    for name, header in headers.items():
        save_model(root, name, **header)
        file = root / f"models/{name}/model.safetensors"
        state, written = weights.load(file)
        heard = {key: torch.full_like(value, 0.5) for key, value in state.items() if "guidance" in key}
        del written["format"]
        weights.save(file, {**state, **heard}, written)
    package(Project.open(root), model, folder / "model")
    return Product(folder / "model/artifacts/product", 4, 20, "cpu")


def test_a_teacher_alone_is_a_product(tmp_path):
    product = packed_as(tmp_path, "teacher", {}, {"teacher": {"classes": ["zero", "one", "two"]}})
    assert product.content.student is None and product.content.example()["steps"] == 18
    assert [product.wish({"class": 0, "seed": 0, "steps": steps}).role for steps in (1, 2, 18)] == ["teacher"] * 3
    with pytest.raises(Exception, match=r"^steps 21: the teacher 1 to 20$"):
        product.wish({"class": 0, "seed": 0, "steps": 21})


def test_a_guided_student_without_classes_of_one_time(tmp_path):
    guided = {"images": "128Ki", "dropout": 0.0, "guidance": [1.2, 2.0]}
    changes = {
        "student.scd": guided,
        "select.guidance": {"teacher": [1.3], "student": [1.6]},
        "teacher.label_dropout": 0.1,
    }
    guided_by = {"scale": 1.6, "guidance": [1.2, 2.0]}
    headers = {"teacher": {"classes": [], "scale": 1.3, "label_dropout": 0.1}, "scd": {"classes": [], **guided_by}}
    product = packed_as(tmp_path, "scd", changes, headers)
    assert product.content.student_steps == [1] and product.content.steps == 1
    for label in ({}, {"class": -1}, {"class": None}):
        assert product.wish({**label, "seed": 0}).label == -1
    assert [product.wish({"seed": 0, "steps": steps}).guidance for steps in (1, 5)] == [1.6, 1.3]
    pngs = [product.draw([product.wish({"seed": 0, "guidance": scale})])[0]["png"] for scale in (1.2, 2.0)]
    assert pixels(pngs[0]).tobytes() != pixels(pngs[1]).tobytes()
    for row, message in (
        ({"class": "0"}, "class: this model was trained without classes; leave it out"),
        ({"guidance": 2.1}, "guidance 2.1: scd was trained for 1.2 to 2; choose from there"),
    ):
        with pytest.raises(Exception) as caught:
            product.wish({"seed": 0, **row})
        assert str(caught.value) == message


def test_each_number_of_steps_has_its_own_scale_by_default(tmp_path):
    guided = {"images": "128Ki", "dropout": 0.0, "guidance": [1.2, 2.0]}
    changes = {"student.scd": guided, "teacher.label_dropout": 0.1, "select.guidance.student": [1.6]}
    chosen = {"scale": 1.6, "scale_1step": 1.8, "t_mid": 0.9, "guidance": [1.2, 2.0]}
    headers = {"teacher": {"classes": [], "scale": 1.3, "label_dropout": 0.1}, "scd": {"classes": [], **chosen}}
    product = packed_as(tmp_path, "scd", changes, headers)
    assert [product.wish({"seed": 0, "steps": steps}).guidance for steps in (1, 2, 3, 9)] == [1.8, 1.6, 1.3, 1.3]
    assert product.wish({"seed": 0, "steps": 1, "guidance": 1.5}).guidance == 1.5
    said = described(product)["guidance"]
    assert said["student"] == {"default": {"1": 1.8, "2": 1.6}, "range": (1.2, 2.0)}
    card = (tmp_path / "model/artifacts/product/card.md").read_text()
    for line in (
        "- the student in 1 step by default: guidance 1.8.",
        "- the student in 2 steps by default: guidance 1.6, second step at t = 0.9.",
        "- the teacher in 18 steps by default: guidance 1.3.",
    ):
        assert line in card

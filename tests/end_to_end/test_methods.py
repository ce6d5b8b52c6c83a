"""Every method but sCT, from params.yaml to the report, with DVC for real."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from scm.results.reading import read_figures
from tests.end_to_end.conftest import Run, copy_project, due, edit, run_stages, runner, scm_here

pytestmark = pytest.mark.slow

RATE = {"max": 1.0e-3, "warmup": 128, "decay": "constant", "decay_from": 0}
PLAIN = {"images": 256, "dropout": 0.0}
SHORT = {**PLAIN, "tangent_warmup": 128}
TRAJECTORIES = {"trajectories": {"steps": 3, "kept": 2, "uses": 2, "from_noise": 0.3}}
VSD = {
    "vsd": {"weight": 1.0, "p_mean": 0.4, "p_std": 2.0},
    "fake_score": {"lr_max": 5.0e-4, "dropout": 0.0, "p_mean": -0.8, "p_std": 1.6, "updates": 1},
}
GAN = {"gan": {"weight": 0.5, "p_mean": -0.4, "p_std": 1.6, "heads": 2, "width": 8, "lr_max": 5.0e-4}}
GUIDED = {"guidance": [1.0, 2.0]}
METHODS = {
    "scd": ("teacher", {**SHORT, **GUIDED}),
    "ect": ("teacher", {**SHORT, "q": 2.0, "k": 8.0, "b": 1.0, "doubling": 64, "c": 0.0}),
    "discrete": ("teacher", {**SHORT, "points": 64}),
    "multistep": ("teacher", {**SHORT, "segments": 3}),
    "ayf": ("teacher", {**SHORT, "r_max": 0.99, **GUIDED}),
    "scd_vsd": ("scd", {**SHORT, "tangent_warmup": 0, **VSD, **GUIDED}),
    "scd_gan": ("teacher", {**SHORT, **GAN}),
    "vsd": ("teacher", {**SHORT, **VSD}),
    "kd": ("teacher", {**PLAIN, **TRAJECTORIES, **GUIDED}),
    "dmd": ("kd", {**PLAIN, **VSD, **TRAJECTORIES, **GUIDED, "steps": 2}),
}
EVALUATIONS = {
    "teacher": {4, 22}, "scd": {1, 2}, "ect": {1, 2}, "discrete": {1, 2}, "multistep": {3}, "ayf": {1, 2, 4},
    "scd_vsd": {1, 2}, "scd_gan": {1, 2}, "vsd": {1}, "kd": {1, 2},
    "dmd": {1, 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def project(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits-smoke with a guided teacher and a method of each kind; the other pipeline has sCT, and their data."""
    folder = copy_project(finished, tmp_path_factory.mktemp("methods") / "project")
    path, yaml = folder / "params.yaml", YAML()
    params = yaml.load(path.read_text())
    params["network"] |= {"multipliers": [1], "attention": [8]}
    params["teacher"]["label_dropout"], params["teacher"]["images"] = 0.1, 512
    params["teacher"]["batch"] = params["student"]["common"]["batch"] = 32
    params["teacher"]["lr"]["decay"] = "constant"
    params["student"]["common"]["lr"] = RATE
    params["student"]["methods"] = {method: start for method, (start, _) in METHODS.items()}
    for method, (_, block) in METHODS.items():
        params["student"][method] = block
    params["select"]["guidance"] = {"teacher": [1.5], "student": [1.5]}
    params["select"]["sigma_rel"] = {"teacher": [0.1], "student": [0.1]}
    params["evaluate"]["models"] = ["teacher", *METHODS]
    params["sampler"]["teacher_steps"] = 6
    params["select"]["samples"] = params["evaluate"]["samples"] = 64
    params["mlflow"]["enabled"] = False
    with path.open("w") as file:
        yaml.dump(params, file)
    run_stages(folder, *due(folder))
    return folder


@pytest.fixture
def run(project: Path) -> Run:
    return runner(project)


def metrics(project: Path, model: str) -> dict[str, float]:
    return read_figures(project, "evaluate", model)


def test_every_method_is_measured_in_its_own_numbers_of_steps(project, run):
    assert json.loads(run("dvc", "status", "--json").stdout) == {}
    for model, evaluations in EVALUATIONS.items():
        figures = metrics(project, model)
        for name in ("fd", "kid", "precision", "recall", "accuracy", "images_per_second"):
            assert {int(key.partition("@")[2]) for key in figures if key.startswith(f"{name}@")} == evaluations, model
        guided = evaluations if model in ("teacher", "scd", "ayf", "scd_vsd", "kd", "dmd") else set()
        scales = {key: value for key, value in figures.items() if key.startswith("guidance")}
        assert scales == {f"guidance@{number}": 1.5 for number in guided}
        assert ("t_mid@2" in figures) == (evaluations == {1, 2}) and "t_mid@1" not in figures
        progress = (project / f"results/curves/progress-{model}.csv").read_text().splitlines()
        assert len(progress) == 1 + (1 if model == "teacher" else 2)
        assert ("fd_1step" in progress[0]) == ({1, 2} <= evaluations)


def test_every_method_is_in_the_report_and_in_mlflow(project):
    page, text = ((project / f"results/report.{ending}").read_text() for ending in ("html", "md"))
    students = ("sCD", "ECT", "Discrete sCD", "Multistep sCD", "AYF-EMD", "sCD + VSD", "sCD + GAN", "VSD", "KD", "DMD")
    for name in (*students, "Heun, guidance 1.5"):
        assert name in page and f"| {name} |" in text
    assert "fake_loss" in (project / "results/curves/train-vsd.csv").read_text().splitlines()[0]
    edit(project, "mlflow.enabled", True)
    shown = [scm_here(project, "sync").stdout for _ in range(2)]
    edit(project, "mlflow.enabled", False)
    assert ": 0 new" not in shown[0] and ": 0 new" in shown[1]
    chain = json.loads((project / "results/runs/evaluate@scd_vsd.json").read_text())["chain"]
    assert chain["student.start"] == "scd" and chain["student.vsd.weight"] == 1.0
    assert (chain["student.scd.start"], chain["student.scd.tangent_warmup"]) == ("teacher", 128)


def test_a_student_that_another_starts_from_takes_it_along(project, run):
    """What train_student@scd_vsd waits for: sCD's selected average, and of the others nothing."""
    lock = YAML(typ="safe").load((project / "dvc.lock").read_text())["stages"]
    read = {name: {entry["path"] for entry in lock[f"train_student@{name}"]["deps"]} for name in METHODS}
    for name, (start, _) in METHODS.items():
        models = {path for path in read[name] if path.startswith("models/")}
        assert models == {"models/teacher/model.safetensors", f"models/{start}/model.safetensors"}


def test_samples_are_drawn_with_guidance_and_in_a_methods_own_steps(scm, tmp_path):
    def draw(*options: str, code: int = 0) -> str:
        return scm("sample", "-n", "4", "-o", str(tmp_path / "x.png"), *options, code=code)

    assert "2 network evaluations" in draw("--model", "scd_vsd", "--guidance", "1.2")
    weak = (tmp_path / "x.png").read_bytes()
    draw("--model", "scd_vsd", "--guidance", "2")
    assert (tmp_path / "x.png").read_bytes() != weak
    for model in ("multistep", "ayf"):
        assert "3 network evaluations" in draw("--model", model, "--steps", "3")
    error = draw("--model", "multistep", "--steps", "2", code=1)
    assert error == "scm: error: --steps 2: multistep is sampled in 3; write --steps 3, or --model teacher\n"
    error = draw("--model", "scd", "--guidance", "3", code=1)
    assert error == "scm: error: --guidance 3: scd was trained for 1 to 2; choose from there\n"
    error = draw("--model", "discrete", "--guidance", "1.5", code=1)
    assert error == "scm: error: --guidance 1.5: discrete was not trained for guidance; leave the option out\n"


def test_another_guidance_scale_retrains_nobody(project, run):
    """What a teacher is sampled with lies beside its weights: students start from these alone."""
    path, yaml = project / "params.yaml", YAML()
    text = path.read_text()
    params = yaml.load(text)
    params["select"]["guidance"], params["select"]["coarse"] = {"teacher": [1.0, 1.3, 1.7], "student": [1.5]}, 32
    with path.open("w") as file:
        yaml.dump(params, file)
    run_stages(project, "select_ema@teacher")
    lines = (project / "results/curves/select-teacher.csv").read_text().splitlines()
    scales, samples = zip(*(line.split(",")[1:3] for line in lines[1:]), strict=True)
    assert lines[0] == "sigma_rel,guidance,samples,fd,noise" and scales[:3] == ("1.0", "1.3", "1.7")
    assert set(scales[3:]) < set(scales[:3]) and samples == ("32",) * 3 + (str(params["select"]["samples"]),) * 2
    chosen = json.loads((project / "models/teacher/sampling.json").read_text())
    scale = read_figures(project, "select_ema", "teacher")["guidance"]
    assert chosen == {"6": {"guidance_scale": scale}}
    stale = json.loads(run("dvc", "status", "--json").stdout)
    assert "evaluate@teacher" in stale and not [stage for stage in stale if stage.startswith("train")]
    path.write_text(text)

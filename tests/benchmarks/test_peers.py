"""benchmarks/peers.py with checkouts that these tests write: what is recognised, what is measured, what is refused."""

from argparse import Namespace

import pytest
import torch

from benchmarks import peers, peers_fd
from benchmarks.peers_imports import StandIns, Stub
from benchmarks.peers_losses import Asked, recognised
from benchmarks.peers_worker import networks_of
from scm.errors import UserError
from tests.support.projects import params_with

LOSS = """
import torch
from torch_utils import training_stats

class TrigFlowSCMLoss:
    def __init__(self, mode, P_mean, P_std, sigma_data, teacher_net):
        self.scale, self.teacher = sigma_data, teacher_net

    def __call__(self, net, images, labels):
        t = torch.linspace(0.3, 1.3, len(images))
        cos, sin = (part[:, None, None, None] for part in (t.cos(), t.sin()))
        x = cos * images + sin * self.scale * torch.randn_like(images)
        towards = self.scale * self.teacher(x, t, labels, return_F=True)[1]

        def function(x, t):
            _, logvar, output = net(x, t, labels, return_logvar=True, return_F=True)
            return output, logvar

        along = (towards * cos * sin, t.cos() * t.sin())
        output, change, logvar = torch.func.jvp(function, (x, t), along, has_aux=True)
        g = cos * cos * (towards - self.scale * output.detach())
        g = SIGN * (cos * sin * x + self.scale * change.detach()) + g
        g = g / (g.flatten(1).norm(dim=1)[:, None, None, None] + 0.1)
        training_stats.report("loss", g)
        print("their output")
        return (output - output.detach() - g).square() / logvar.exp() + logvar
"""
SCRIPT = """
import math
import click
import torch
from torch.utils.data import DataLoader
import torchvision
import torchvision.transforms as transforms
from tqdm import tqdm
from unet import Unet

@click.command()
@click.option("--device", default="cuda")
@click.option("--epochs", default=200)
@click.option("--batch-size", default=8)
@click.option("--lr", default=1e-3)
def train(device, epochs, batch_size, lr):
    student, teacher = Unet(256), Unet(256)
    student.load_state_dict(torch.load("model.pt"), strict=False)
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr)
    data = torchvision.datasets.MNIST(transform=transforms.ToTensor())
    for step, (x, _) in enumerate(tqdm(DataLoader(data, batch_size))):
        t = torch.full((len(x), 1, 1, 1), 0.7)
        x = t.cos() * x + t.sin() * 0.5 * torch.randn_like(x)
        with torch.no_grad():
            towards = teacher(x / 0.5, t.flatten())
        along = t.cos() * t.sin()
        function = lambda x, t: student(x, t.flatten(), return_logvar=True)
        output, change, logvar = torch.func.jvp(function, (x / 0.5, t), (along * towards, along), has_aux=True)
        r = min(1.0, step / 1000)
        g = -t.cos() ** 2 * 0.5 * (output.detach() - towards) - r * (along * x + 0.5 * change.detach())
        optimizer.zero_grad()
        ((output - output.detach() - g) ** 2 / logvar.view(-1, 1, 1, 1).exp()).mean().backward()
        optimizer.step()
"""


def checkout(folder, sign="-1", loss=LOSS):
    (folder / "training").mkdir(parents=True)
    (folder / "training/loss_scm.py").write_text(loss.replace("SIGN", sign))
    return folder


def table_of(text):
    """The rows of a printed table, by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {cells[0]: cells[1:] for cells in lines[2:]}


@pytest.mark.long
@pytest.mark.slow
def test_losses_of_checkouts_are_measured_beside_ours(tmp_path, capsys):
    """A right loss has our tangent, one with a wrong sign has not; a script is past its warm-up and changes nothing."""
    script = tmp_path / "script"
    script.mkdir()
    (script / "train_consistency.py").write_text(SCRIPT)
    (script / "unet.py").write_text("class Unet: pass\n")
    right, wrong = checkout(tmp_path / "right"), checkout(tmp_path / "wrong", "+1")
    broken = checkout(tmp_path / "broken", loss="import no_such_package\n")
    codes = map(str, (right, wrong, script, broken))
    peers.main(["--code", *codes, "--batch", "3", "--rounds", "1", "--steps", "1"])
    told = capsys.readouterr().out
    rows = table_of(told)
    theirs = ["edm2_sCM (right)", "edm2_sCM (wrong)", "sCM-mnist"]
    assert list(rows) == ["scm", "scm, split", "scm, jvp", *theirs]
    for name, (ms, ratio, _, operations, memory, apart, exact) in rows.items():
        assert float(ms) > 0 and float(ratio) > 0 and float(operations) > 0 and float(memory) > 0
        agrees = float(apart) < 1e-5 and float(exact) < 1e-4
        assert agrees == (name != "edm2_sCM (wrong)"), name
    assert float(rows["edm2_sCM (wrong)"][5]) > 0.1
    assert float(rows["scm"][3]) < float(rows["edm2_sCM (right)"][3]) < float(rows["scm, split"][3])
    assert "edm2_sCM (right): stood in for torch_utils, which its loss does not need" in told
    assert "edm2_sCM (broken) was not measured: needs no_such_package, which is not installed." in told
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {
        "loss_scm.py", "train_consistency.py", "unet.py"
    }  # fmt: skip


def test_folders_that_are_no_checkouts_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"--code .*none: there is no such folder"):
        peers.main(["--code", str(tmp_path / "none")])
    with pytest.raises(UserError, match=r"is no checkout of FastGen .*, sCM-mnist .*, edm2_sCM .*, rcm"):
        peers.main(["--code", str(tmp_path)])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"it has no models/teacher/model\.safetensors: give a finished project"):
        peers.main(["--to-fd", "--project", str(tmp_path)])
    assert recognised(checkout(tmp_path / "code")).name == "edm2_sCM"


def test_the_difference_of_tangents_is_relative_to_each_samples_largest_element():
    true = torch.tensor([[3.0, 4.0], [0.6, 0.8]])
    assert peers.difference(true, true) == 0
    assert peers.difference(torch.tensor([[3.0, 4.4], [0.6, 0.6]]), true) == pytest.approx(0.25)
    assert peers.difference(-true, true) == 2


def test_the_ratio_is_that_of_each_round():
    """The ratios are 2, 1 and 3; the ratio of the medians would be 3 / 2."""
    taken = [{"scm": ours, "a": theirs} for ours, theirs in ((1.0, 2.0), (3.0, 3.0), (2.0, 6.0))]
    counts = {name: {"operations": 2e9, "bytes": 2**21} for name in ("scm", "a")}
    found = peers.rows(taken, counts, dict.fromkeys(("scm", "a"), (0.0, 1e-6)))
    assert found[1] == ["a", "3000", "2.00", "1.00–3.00", "2.00", "2", "0.0e+00", "1.0e-06"]


def test_the_time_to_a_value_is_that_of_the_first_point_below_it():
    ours, split = [(64, 1.0, 9.0), (128, 2.0, 5.0), (192, 3.0, 6.0)], [(64, 3.0, 9.0), (128, 6.0, 5.0)]
    runs = [{peers_fd.OURS: ours, peers_fd.SPLIT: split}, {peers_fd.OURS: ours, peers_fd.SPLIT: split[:1]}]
    assert peers_fd.reached(ours, 6) == (128, 2.0, 5.0) and peers_fd.reached(ours, 5) is None
    start = [(0, 1e-3, 20.0)]
    assert peers_fd.rows([{name: start + points for name, points in runs[0].items()}], [30]) == [
        ["30", "0.0", "0", "0.0", "–"]
    ]
    assert peers_fd.rows(runs, [10, 6, 1]) == [
        ["10", "1.0", "64", "3.0", "3.00 (3.00–3.00)"],
        ["6", "2.0", "128", "–", "3.00"],
        ["1", "–", "–", "–", "–"],
    ]


class Told:
    """Stands for a process: answers with the next of some answers."""

    def __init__(self, batch, *answers):
        self.start, self.answers, self.asked = {"batch": batch}, list(answers), []

    def ask(self, question):
        self.asked.append(question["steps"])
        return self.answers.pop(0)


def test_trainings_take_turns_of_as_many_images_and_the_script_gets_the_longest_time():
    def answer(seconds, *points, done=False):
        return {"seconds": seconds, "points": points, "done": done}

    ours = Told(64, answer(1.0, [64, 1.0, 9.0]), answer(2.0, [128, 2.0, 5.0], done=True))
    split = Told(64, answer(2.0), answer(4.0, done=True))
    script = Told(128, answer(1.5), answer(3.0), answer(4.5, [512, 4.5, 30.0]))
    points = peers_fd.take_turns({peers_fd.OURS: ours, peers_fd.SPLIT: split, peers_fd.MNIST: script}, 256)
    assert ours.asked == split.asked == [4, 4] and script.asked == [2, 2, 2]
    assert points[peers_fd.OURS] == [(64, 1.0, 9.0), (128, 2.0, 5.0)] and points[peers_fd.MNIST] == [(512, 4.5, 30.0)]


class Channel:
    """Stands for the parent's side: asks, and keeps the answers."""

    def __init__(self, *steps):
        self.steps, self.answers = steps, []

    def questions(self):
        return iter([{"steps": steps} for steps in self.steps])

    def answer(self, found):
        self.answers.append(found)


def test_the_clock_runs_in_steps_alone(monkeypatch):
    """Each look at the clock is a second later: two steps take one each, and what is measured beside them nothing."""
    seconds = iter(range(100))
    monkeypatch.setattr(peers_fd.time, "process_time", lambda: next(seconds))
    channel = Channel(2, 1)
    gate = peers_fd.Gate(channel, {"batch": 64})
    assert gate() is False
    with gate.paused():
        next(seconds)  # a measurement
        gate.add(64, 9.0)
    assert gate() is gate() is False
    gate.answer(done=True)
    first, second = {"seconds": 2, "points": [(64, 1, 9.0)], "done": False}, {"seconds": 3, "points": [], "done": True}
    assert channel.answers == [{"batch": 64}, first, second]
    with pytest.raises(SystemExit):
        gate()


def test_another_budget_keeps_the_schedules_shape():
    settings = params_with({}).student.method("scd")
    half = peers_fd.scaled(settings, settings.images // 2)
    assert half.images == settings.images // 2 and half.tangent_warmup == settings.tangent_warmup // 2
    assert half.lr.decay_from == settings.lr.decay_from // 2 and half.lr.max == settings.lr.max
    assert peers_fd.scaled(settings, None) is settings


def test_a_stand_in_takes_what_a_file_does_with_a_package_that_it_imports():
    stub = Stub("theirs")
    assert stub(int) is int and stub.timer("a")(int) is int and isinstance(stub.anything(1, 2), Stub)
    child = type("Child", (), {})
    assert stub.register()(child) is child and list(stub) == []

    class Theirs(stub.Base):
        pass

    assert Theirs.__bases__ == (object,)
    found = StandIns(("wandb", "rcm.utils"))
    assert found.find_spec("wandb.sdk") and found.find_spec("rcm.utils.misc") and found.used == {"wandb", "rcm.utils"}
    assert found.find_spec("rcm.models") is None and found.find_spec("wandbox") is None


def test_all_processes_have_the_same_network_whose_tangent_is_not_zero():
    one, other = networks_of("edm2, width 16", 2), networks_of("edm2, width 16", 2).double
    assert isinstance(one.student, Asked) and one.student.learns and not one.teacher.learns
    x, t = one.batch[0], torch.tensor([0.3, 1.2])
    output = one.student(x, t, one.batch[1])
    torch.testing.assert_close(
        output.double(), other.student(x.double(), t.double(), one.batch[1]), rtol=1e-4, atol=1e-5
    )
    assert output.abs().max() > 0.01 and one.teacher(x, t).shape == x.shape and one.teacher.seen is not None


def test_a_new_folder_for_a_project_may_be_empty(tmp_path, monkeypatch):
    """What is made there is a copy of this project, before images are looked at."""
    options = Namespace(project=tmp_path / "new", images=tmp_path / "none", minutes=1, resolution=None)
    with pytest.raises(UserError, match="none"):
        peers_fd.prepared(options, tmp_path / "unused")
    assert (tmp_path / "new/dvc.yaml").is_file()

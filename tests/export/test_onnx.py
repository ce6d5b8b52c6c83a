"""A model in ONNX draws what `scm sample` draws, and so does the page beside it in a real browser."""

import functools
import http.server
import threading

import pytest
import torch

import scm
from scm.export import onnx_file
from scm.export.graph import Graph
from tests.support import chromium
from tests.support.exported import expected, inputs_of

pytestmark = pytest.mark.long
STATE = "document.body && document.body.dataset.state"
PIXELS = """[...document.querySelectorAll('canvas')].map(canvas => [...canvas.getContext('2d')
    .getImageData(0, 0, canvas.width, canvas.height).data].filter((_, place) => place % 4 === 0))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(web):
    if not (web / "index.html").exists():
        pytest.skip("onnxruntime-web cannot be fetched here")
    handler = functools.partial(Quiet, directory=str(web))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_onnx_draws_the_same_for_any_number_of_samples(root, web, monkeypatch):
    """Images have equal bytes, but for pixels at the edge between two levels."""
    import onnxruntime

    assert {path.name for path in web.iterdir()} >= {"README.md", "model.json", "steps-1.onnx", "steps-2.onnx"}
    model = scm.load(root / "models/scd")
    for steps in (1, 2):
        graph, session = Graph(model, steps), onnxruntime.InferenceSession(web / f"steps-{steps}.onnx")
        for labels in ([1], [0, 1, 2, 2, 0]):
            given = zip(graph.inputs, inputs_of(graph, labels), strict=True)
            (images,) = session.run(None, {name: value.numpy() for name, value in given})
            different = (torch.from_numpy(images).int() - expected(model, labels, steps).int()).abs()
            assert different.max() <= 1 and different.float().mean() < 0.01
    code = (web / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(web)
    exec(code, names := {})
    assert names["images"].shape == (4, 1, 8, 8)


def test_onnx_is_within_1e_4_before_rounding(root, tmp_path):
    import onnxruntime

    graph = Graph(scm.load(root / "models/sct"), 1, rounded=False)
    onnx_file.write_onnx(graph, tmp_path / "plain.onnx")
    inputs = inputs_of(graph, [-1] * 3)
    session = onnxruntime.InferenceSession(tmp_path / "plain.onnx")
    (pixels,) = session.run(None, {"noise": inputs[0].numpy()})
    assert (torch.from_numpy(pixels) - graph(*inputs)).abs().max() < 1e-4


@pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium on this machine")
def test_the_page_draws_the_images_of_the_command(root, address, tmp_path):
    """Its noise is torch's, so only a pixel at the edge between two levels may differ, by one level."""
    loaded = scm.load(root / "models/scd")
    with chromium.browser(tmp_path / "profile") as tab:
        tab.open(address)
        tab.wait(f"['done', 'error'].includes({STATE})")
        assert tab.value("document.getElementById('error').textContent") == ""
        first = loaded.sample(count=10).tensor.flatten(1).int()
        assert (torch.tensor(tab.value(PIXELS)) - first).abs().max() <= 1
        tab.picture(tmp_path / "page.png")
        for field, value in (("class", "2"), ("steps", "1"), ("seed", "77"), ("count", "3")):
            tab.value(f"document.getElementById('{field}').value = '{value}'")
        tab.value("document.getElementById('draw').click()")
        tab.wait(f"{STATE} === 'done' && document.querySelectorAll('canvas').length === 3")
        chosen = loaded.sample([2], count=3, steps=1, seed=77).tensor.flatten(1).int()
        assert (torch.tensor(tab.value(PIXELS)) - chosen).abs().max() <= 1
        assert tab.value("[...document.querySelectorAll('figcaption')].map(e => e.textContent)") == ["two"] * 3
        asked = [url for url in tab.requests if not url.startswith(("data:", "about:", "blob:"))]
        assert asked and all(url.startswith(address) for url in asked)
        assert tab.messages == []

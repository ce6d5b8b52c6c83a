import io
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from scm.data.shards.shards import iterate, read_index
from tests.support.pictures import GOOD, deep_folder, make, make_tar, make_zip, picture, prepare, read, refused


def test_digits_are_scikit_learns_1797_in_ten_classes():
    from sklearn.datasets import load_digits

    samples, classes, skipped = read(Path("unused"), source="digits", channels=1, max_pixels=1, shard_images=500)
    flat, labels = load_digits(return_X_y=True)
    assert len(samples) == 1797 and classes == list("0123456789") and skipped == []
    assert [key for key, _, _ in samples[:2]] == ["00000000", "00000001"]
    assert [label for _, _, label in samples] == list(labels)
    pixels = np.stack([pixels for _, pixels, _ in samples])
    assert np.array_equal(pixels[..., 0], np.round(flat * 255 / 16).reshape(-1, 8, 8)) and pixels.max() == 255


def containers(tmp_path, files):
    scrambled = dict(reversed(files.items()))
    yield make(tmp_path / "folder", scrambled)
    yield make_zip(tmp_path / "images.zip", scrambled)
    yield make_tar(tmp_path / "images.tar", scrambled)
    yield make_tar(tmp_path / "images.tar.gz", scrambled)
    yield make_tar(tmp_path / "images.tgz", {f"./{name}": content for name, content in scrambled.items()})


def test_folder_zip_and_tar_give_the_same_shards(tmp_path):
    written = set()
    for path in containers(tmp_path, GOOD):
        with TemporaryDirectory() as folder:
            index, tally = prepare(folder, path)
            assert index == read_index(Path(folder, "out"))
            samples = list(iterate(Path(folder, "out")))
        assert index["classes"] == ["cat", "dog"] and not tally.skipped
        assert [(key, label) for key, _, label in samples] == [("00000000", 0), ("00000001", 0), ("00000002", 1)]
        written.add(tuple(shard["sha256"] for shard in index["shards"]))
    assert len(written) == 1


def test_without_labels_every_image_at_any_depth_counts(tmp_path):
    for path in containers(tmp_path, GOOD | {"top.png": picture(4)}):
        samples, classes, _ = read(path, labels=False)
        assert len(samples) == 4 and classes == [] and {label for _, _, label in samples} == {-1}


def test_a_wrapping_folder_is_looked_through(tmp_path):
    for path in containers(tmp_path, {f"mydata/{name}": content for name, content in GOOD.items()}):
        assert read(path)[1] == ["cat", "dog"]


def test_one_class_is_no_wrapping_folder(tmp_path):
    for path in containers(tmp_path, {"cat/1.png": picture(1), "LICENSE.txt": b"free"}):
        samples, classes, skipped = read(path)
        assert classes == ["cat"] and len(samples) == 1
        assert skipped == [{"file": "LICENSE.txt", "reason": "not an image file"}]


def test_a_wrapping_folder_of_the_same_name_as_its_class(tmp_path):
    assert read(make(tmp_path / "x", {"cat/cat/1.png": picture(1), "cat/dog/1.png": picture(2)}))[1] == ["cat", "dog"]


LITTER = (
    ".git/a.png", "cat/.a.png", "cat/.DS_Store", "__MACOSX/cat/1.png", "Thumbs.db", "cat/@eaDir/1.png/SYNO_S.jpg",
    "#recycle/1.png", "$RECYCLE.BIN/1.png", "System Volume Information/1.png", "lost+found/1.png", "dog/DESKTOP.INI",
    "@Recycle/1.png", "@Recently-Snapshot/a/1.png", "~snapshot/1.png", "RECYCLER/S-1/1.png", "LOST.DIR/1.png",
    "FOUND.000/FILE0000.CHK", "Network Trash Folder/1.png", "Temporary Items/1.png", "cat/ehthumbs.db",
    "cat/1.png~", "__pycache__/1.png",
)  # fmt: skip


def test_hidden_files_and_litter_are_no_images_but_listed(tmp_path):
    for path in containers(tmp_path, GOOD | dict.fromkeys(LITTER, picture(9))):
        samples, classes, skipped = read(path)
        assert len(samples) == 3 and classes == ["cat", "dog"]
        assert {entry["file"] for entry in skipped} == set(LITTER)
        assert {entry["reason"] for entry in skipped} == {"hidden, or left there by a system"}


def test_classes_are_sorted_as_folders_not_as_paths(tmp_path):
    samples, classes, _ = read(make(tmp_path / "x", {"cat-2/1.png": picture(1), "cat/1.png": picture(2)}))
    assert classes == ["cat", "cat-2"] and [label for _, _, label in samples] == [0, 1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"this is no image", "not a readable image", id="no image"),
        pytest.param(b"", "the file is empty", id="zero bytes"),
        pytest.param(picture(5, (60, 60), suffix="JPEG")[:-300], "image file is truncated", id="truncated jpeg"),
        pytest.param(picture(5, (60, 60))[:2000], "broken image (", id="truncated png"),
        pytest.param(picture(5, (60, 60), suffix="TIFF")[:2000], "broken image (", id="truncated tiff"),
        pytest.param(picture(5, (65, 64)), "claims 65 x 64 pixels, more than data.max_pixels = 4,096", id="too large"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image", id="postscript"),
    ],
)
def test_an_unusable_image_is_named_or_skipped_and_counted(tmp_path, content, reason):
    for path in containers(tmp_path, GOOD | {"cat/bad.png": content}):
        message = refused(path)
        assert f"{path}: cat/bad.png: " in message and reason in message
        assert message.endswith("repair or remove it, or set data.on_bad_image: skip")
        samples, _, skipped = read(path, on_bad_image="skip")
        assert Counter(label for _, _, label in samples) == {0: 2, 1: 1}
        assert [entry["file"] for entry in skipped] == ["cat/bad.png"] and reason in skipped[0]["reason"]


def huge_png():
    """A few bytes that claim 100,000 x 100,000 pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def test_a_decompression_bomb_is_refused_by_its_claim(tmp_path):
    for path in containers(tmp_path, GOOD | {"dog/bomb.png": huge_png()}):
        assert "dog/bomb.png: claims 100000 x 100000 pixels" in refused(path)


def test_pillows_own_limit_neither_decides_nor_stays_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    assert prepare(tmp_path, make(tmp_path / "x", GOOD))[0]["count"] == 3
    assert Image.MAX_IMAGE_PIXELS == 16


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(17 * 2**20))
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("the member was unpacked"))
    assert "cat/1.png: claims 17,825,792 bytes, too many for data.max_pixels = 4,096" in refused(path)


def test_a_gzip_bomb_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("scm.data.reading.containers.GZIP_FREE_BYTES", 2**20)
    path = make_tar(tmp_path / "bomb.tar.gz", {"cat/1.bmp": bytes(2**24)})
    assert "grows to more than" in refused(path)


def test_images_beside_class_folders_are_refused(tmp_path):
    for path in containers(tmp_path, GOOD | {"stray.png": picture(4)}):
        message = refused(path)
        assert "stray.png lies beside the class folders: move it into one, or set data.labels: false" in message


def test_images_beside_wrapped_class_folders_are_refused(tmp_path):
    wrapped = {f"mydata/{name}": content for name, content in (GOOD | {"stray.png": picture(4)}).items()}
    for path in containers(tmp_path, wrapped):
        assert "mydata/stray.png lies beside the class folders" in refused(path)


def test_images_without_any_class_folder_are_refused(tmp_path):
    assert "a.png lies in no class folder: move" in refused(make(tmp_path / "x", {"a.png": picture()}))


def test_an_empty_class_is_named(tmp_path):
    path = make(tmp_path / "x", GOOD)
    (path / "owl").mkdir()
    assert "the class folder owl has no images: fill it or delete it" in refused(path)
    assert len(read(path, labels=False)[0]) == 3
    assert "class folder owl has no images" in refused(make_zip(tmp_path / "x.zip", GOOD | {"owl/": b""}))
    assert "class folder owl has no images" in refused(make_tar(tmp_path / "x.tar", GOOD | {"owl/notes.txt": b"-"}))


def test_a_class_that_skipping_empties_is_named(tmp_path):
    path = make(tmp_path / "x", GOOD | {"dog/1.PNG": b"broken"})
    assert "the class dog has no usable image" in refused(path, on_bad_image="skip")
    only = make(tmp_path / "y", {"1.png": b"broken"})
    assert "the source has no usable image" in refused(only, labels=False, on_bad_image="skip")


def test_nothing_to_read_is_named(tmp_path):
    assert "does not exist: set data.path to" in refused(tmp_path / "nowhere")
    assert "no images in it: put" in refused(make(tmp_path / "x", {"README.md": b"-"}))
    make_zip(tmp_path / "x/flowers.zip", GOOD)
    assert f"set data.path to {tmp_path / 'x/flowers.zip'}" in refused(tmp_path / "x")


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
def test_a_damaged_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"nonsense")
    assert "cannot be read as an archive" in refused(tmp_path / name)


def test_a_truncated_gzip_is_named(tmp_path):
    path = make_tar(tmp_path / "a.tar.gz", GOOD)
    path.write_bytes(path.read_bytes()[:-50])
    assert "cannot be read as an archive" in refused(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    assert "is no folder and no archive: use one of .zip, .tar, .tar.gz, .tgz" in refused(tmp_path / "a.rar")


@pytest.mark.parametrize(
    "name", ["../evil.png", "cat/../../evil.png", "/etc/evil.png", "C:\\evil.png", "cat\\..\\evil.png"]
)
def test_a_member_that_leaves_the_archive_is_refused(tmp_path, name):
    for path in (
        make_zip(tmp_path / "a.zip", GOOD | {name: picture()}),
        make_tar(tmp_path / "a.tar", GOOD | {name: b"-"}),
    ):
        assert f"the member {name} points outside the archive" in refused(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
@pytest.mark.parametrize("target", ["/etc/passwd", "../../../etc/passwd", "../.."])
def test_a_tar_link_that_leaves_the_archive_is_refused(tmp_path, kind, target):
    path = make_tar(tmp_path / "a.tar", GOOD, {"cat/evil.png": (kind, target)})
    assert "the member cat/evil.png is a link out of the archive" in refused(path)


def test_links_inside_an_archive_are_followed(tmp_path):
    links = {"dog/soft.png": (tarfile.SYMTYPE, "../cat/1.png"), "dog/hard.png": (tarfile.LNKTYPE, "cat/1.png")}
    samples, _, _ = read(make_tar(tmp_path / "a.tar", GOOD, links))
    first, hard, soft = samples[0], samples[3], samples[4]
    assert np.array_equal(first[1], hard[1]) and np.array_equal(first[1], soft[1]) and soft[2] == 1


@pytest.mark.parametrize("target", ["missing.png", "loop.png", "../cat"])
def test_a_link_to_no_file_of_the_archive_is_refused(tmp_path, target):
    path = make_tar(tmp_path / "a.tar", GOOD, {"dog/loop.png": (tarfile.SYMTYPE, target)})
    assert "the member dog/loop.png is a link to no file of the archive" in refused(path)


@pytest.mark.parametrize("second", ["cat/1.png", "dog/1.PNG"])
def test_a_link_that_is_there_twice_is_refused(tmp_path, second):
    with tarfile.open(make_tar(tmp_path / "a.tar", GOOD), "a") as archive:
        for target in ("cat/1.png", second):
            info = tarfile.TarInfo("dog/link.png")
            info.type, info.linkname = tarfile.LNKTYPE, target
            archive.addfile(info)
    assert "the member dog/link.png is there twice" in refused(tmp_path / "a.tar")


def test_a_zip_link_that_leaves_the_archive_is_refused(tmp_path):
    for target, expected in (("../../secret.png", "is a link out of the archive"), ("../cat/1.png", None)):
        path = make_zip(tmp_path / "a.zip", GOOD)
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo("dog/link.png")
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(info, target)
        if expected:
            assert f"the member dog/link.png {expected}" in refused(path)
        else:
            assert len(read(path)[0]) == 4


def test_links_of_a_folder_must_stay_in_it(tmp_path):
    (tmp_path / "secret.png").write_bytes(picture())
    path = make(tmp_path / "x", GOOD)
    link = path / "dog/link.png"
    link.symlink_to(path / "cat/1.png")
    assert len(read(path)[0]) == 4
    for target, expected in (
        (tmp_path / "secret.png", "dog/link.png is a link out of the folder"),
        (path / "nowhere.png", "dog/link.png is a link to nothing"),
        (path / "cat", "dog/link.png is a link to a folder"),
        (link, "dog/link.png is a link to nothing"),
    ):
        link.unlink()
        link.symlink_to(target)
        assert expected in refused(path)


def test_a_pipe_in_a_folder_is_not_waited_for_but_listed(tmp_path):
    path = make(tmp_path / "x", GOOD)
    os.mkfifo(path / "cat/pipe.png")
    samples, _, skipped = read(path)
    assert len(samples) == 3 and skipped == [{"file": "cat/pipe.png", "reason": "a pipe, a device or the like"}]


def test_a_device_in_a_tar_is_listed(tmp_path):
    _, _, skipped = read(make_tar(tmp_path / "x.tar", GOOD, {"cat/null": (tarfile.CHRTYPE, "")}))
    assert skipped == [{"file": "cat/null", "reason": "a pipe, a device or the like"}]


def test_a_picture_is_one_whatever_its_name(tmp_path):
    named = {f"cat/{name}": picture(5) for name in ("a", "b.dat", "c.jfif", "d.avif", "e.JPG", "f.txt")}
    for path in containers(tmp_path, GOOD | named | {"cat/notes.txt": b"free", "cat/clip.mp4": b"\0\0\0\x18ftypmp42"}):
        samples, _, skipped = read(path)
        assert len(samples) == 9
        assert skipped == [{"file": f"cat/{name}", "reason": "not an image file"} for name in ("clip.mp4", "notes.txt")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "a.heic",
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
            "a HEIC picture, which pip install 'scm[heic]' makes readable",
        ),
        ("a.txt", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC picture"),
        ("a.psd", b"8BPS\0\1", "not a readable image"),
        ("a.jxl", b"\xff\x0a", "not a readable image"),
        ("a.dat", b"\0\0\0\x0cJXL \r\n\x87\n", "not a readable image"),
        ("a.nef", b"no photograph", "not a readable image"),
    ],
)
def test_a_picture_that_is_not_read_is_an_unusable_image(tmp_path, monkeypatch, name, content, reason):
    monkeypatch.setattr("scm.data.reading.images._heic_formats", lambda: ())
    path = make(tmp_path / "x", GOOD | {f"cat/{name}": content})
    assert f"cat/{name}: {reason}" in refused(path)
    (entry,) = read(path, on_bad_image="skip")[2]
    assert entry["file"] == f"cat/{name}" and entry["reason"].startswith(reason)


def test_a_file_that_an_archive_cannot_give_back_is_an_unusable_image(tmp_path):
    path = make_zip(tmp_path / "x.zip", GOOD | {"cat/4": picture(4)})
    path.write_bytes(path.read_bytes().replace(b"cat/4", b"cat/5", 1))  # in the member itself, not in the directory
    assert "cat/4: broken image (the archive's directory and the member do not agree)" in refused(path)


def test_deep_folders(tmp_path):
    path = make_tar(tmp_path / "x.tar", {f"cat/{'/'.join(['d'] * 1100)}/1.png": picture()})
    assert len(read(path)[0]) == 1
    make(tmp_path / "x", {"dog/1.png": picture()})
    with deep_folder(tmp_path / "x/cat", 1100):
        assert len(read(tmp_path / "x")[0]) == 2
    with deep_folder(tmp_path / "x/owl", 25, "d" * 200):
        assert "cannot be read (File name too long): change its permissions or remove it" in refused(tmp_path / "x")


@pytest.mark.parametrize("name", ["\udcff", "a\nb", "\x1b[31mred", "a\u2028b"])
def test_a_class_folder_that_is_no_printable_text_is_refused(tmp_path, name):
    files = {"cat/1.png": picture(1), f"{name}/2.png": picture(2)}
    for path in (make(tmp_path / "x", files), make_tar(tmp_path / "x.tar", files)):
        message = refused(path)
        assert message.endswith(
            f"{name!a} has a name that is no valid text without control characters: give it another one"
        )
    assert len(read(tmp_path / "x", labels=False)[0]) == 2


def test_names_that_are_no_utf_8_are_listed_escaped(tmp_path):
    files = GOOD | {"cat/t\udceate.png": picture(1), "cat/l\udceas.txt": b"-", "cat/b\udceat.png": b"-"}
    for path in (make(tmp_path / "x", files), make_tar(tmp_path / "x.tar", files)):
        samples, _, skipped = read(path, on_bad_image="skip")
        assert len(samples) == 4
        assert sorted(entry["file"] for entry in skipped) == [r"cat/b\udceat.png", r"cat/l\udceas.txt"]


def test_a_zero_byte_in_a_name_is_refused(tmp_path):
    path = make_zip(tmp_path / "x.zip", GOOD | {"cat/a#.png": picture(1)})
    path.write_bytes(path.read_bytes().replace(b"a#.png", b"a\0.png"))
    assert "has a zero byte in its name" in refused(path)


def test_a_folder_of_a_zip_that_holds_bytes_of_its_own_is_refused(tmp_path):
    path = make_zip(tmp_path / "x.zip", GOOD | {"cat/a#": picture(1)})
    path.write_bytes(path.read_bytes().replace(b"cat/a#", b"cat/a/"))
    assert "the folder cat/a is said to hold" in refused(path)


def test_zip_names_without_the_flag_give_the_same_shards_as_the_folder(tmp_path):
    files = {"chien/1.png": picture(1), "été/1.png": picture(2), "zèbre/1.png": picture(3)}
    path = make_zip(tmp_path / "x.zip", files)
    content = path.read_bytes()
    for encoding in ("utf-8", "cp437"):
        other = content
        for name in ("été", "zèbre"):
            raw = name.encode(encoding).ljust(len(name.encode()), b"_")  # the same number of bytes
            other = other.replace(name.encode(), raw)
        for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            pieces = other.split(signature)
            other = signature.join([pieces[0], *(piece[: at - 4] + b"\0\0" + piece[at - 2 :] for piece in pieces[1:])])
        path.write_bytes(other)
        classes = [
            name if encoding == "utf-8" else name + "_" * (len(name.encode()) - len(name)) for name in ("zèbre", "été")
        ]
        assert read(path)[1] == ["chien", *classes]


def test_links_of_an_archive_need_not_be_images_to_be_counted(tmp_path):
    path = make_tar(tmp_path / "x.tar", GOOD | {"cat/notes.txt": b"-"}, {"cat/soft": (tarfile.SYMTYPE, "notes.txt")})
    samples, _, skipped = read(path)
    assert len(samples) == 3 and [entry["file"] for entry in skipped] == ["cat/notes.txt", "cat/soft"]


def test_unreadable_litter_is_listed_by_its_folder(tmp_path, monkeypatch):
    path = make(tmp_path / "x", GOOD | {"lost+found/1.png": picture()})
    listdir = os.listdir

    def refusing(folder):
        if str(folder).endswith("lost+found"):
            raise PermissionError(13, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refusing)
    assert [entry["file"] for entry in read(path)[2]] == ["lost+found"]


def test_an_encrypted_or_damaged_zip_member_is_an_unusable_image(tmp_path):
    path = make_zip(tmp_path / "a.zip", GOOD)
    content = path.read_bytes()
    path.write_bytes(content.replace(picture(1)[-40:], bytes(40)))
    assert "cat/1.png: broken image (Bad CRC-32" in refused(path)


def test_a_name_that_cannot_be_printed_is_escaped(tmp_path):
    path = make_tar(tmp_path / "a.tar", GOOD | {"cat/a\nb.png": b"-"})
    assert r"'cat/a\nb.png': not a readable image" in refused(path)


def test_exif_orientation_reaches_the_pixels(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    (tmp_path / "cat").mkdir()
    Image.fromarray(pixels).save(tmp_path / "cat/1.png", exif=exif)
    ((_, result, _),) = read(tmp_path)[0]
    assert (result[-1] == 255).all() and not result[:-1].any()


def encoded(image, suffix, **settings):
    buffer = io.BytesIO()
    image.save(buffer, format=suffix, **settings)
    return buffer.getvalue()


def only(tmp_path, name, content):
    """The pixels of the one image of a folder."""
    ((_, pixels, _),) = read(make(tmp_path / "x", {name: content}), labels=False)[0]
    return pixels


def test_a_cmyk_jpeg_has_its_colours(tmp_path):
    inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow make red
    pixels = only(tmp_path, "1.jpg", encoded(inks, "JPEG", quality=100, subsampling=0)).astype(int)
    assert np.abs(pixels - [255, 0, 0]).max() <= 2


def test_a_16_bit_png_keeps_its_brightness(tmp_path):
    values = (np.arange(64, dtype=np.uint16) * 1040).reshape(8, 8)
    pixels = only(tmp_path, "1.png", encoded(Image.fromarray(values), "PNG"))
    assert np.array_equal(pixels, np.repeat(np.round(values / 257).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("suffix", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    lossless = {"lossless": True} if suffix == "WEBP" else {}
    content = encoded(frames[0], suffix, save_all=True, append_images=frames[1:], **lossless)
    assert getattr(Image.open(io.BytesIO(content)), "n_frames", 1) == 2
    assert (only(tmp_path, f"1.{suffix.lower()}", content) == [255, 0, 0]).all()


def test_the_content_counts_whatever_the_extension_says(tmp_path):
    content = picture(7, (8, 8))  # a PNG
    assert np.array_equal(only(tmp_path, "1.jpg", content), np.array(Image.open(io.BytesIO(content))))


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        for seed in (1, 2):
            archive.writestr("cat/1.png", picture(seed))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("cat/1.png", "./cat//1.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture())
            archive.addfile(info, io.BytesIO(picture()))
    for name in ("a.zip", "a.tar"):
        assert "the member cat/1.png is there twice: pack the archive again" in refused(tmp_path / name)


def test_names_in_any_script(tmp_path):
    files = {"кошка/猫.png": picture(1), "Löwe/été 1.png": picture(2), "🦉/x.png": picture(3)}
    keys = set()
    for path in containers(tmp_path, files):
        samples, classes, _ = read(path)
        assert classes == ["Löwe", "кошка", "🦉"] and [label for _, _, label in samples] == [0, 1, 2]
        keys.add(tuple(key for key, _, _ in samples))
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "straße"), ("cat", "cat "), ("cat", "Cat."),
        ("cat", "cat\u200b"), ("cat\u00a0", "cat"),
    ],
)  # fmt: skip
def test_class_folders_that_some_systems_take_for_one_are_refused(tmp_path, one, other):
    path = make_tar(tmp_path / "a.tar", {f"{one}/1.png": picture(1), f"{other}/2.png": picture(2)})
    message = refused(path)
    assert f"{one!a}" in message and f"{other!a}" in message and "differ in case or in the form of letters" in message


def test_a_class_with_one_image(tmp_path):
    files = {"a/1.png": picture(1), "b/1.png": picture(2), "b/2.png": b""}
    samples, classes, _ = read(make(tmp_path / "x", files), on_bad_image="skip")
    assert classes == ["a", "b"] and [label for _, _, label in samples] == [0, 1]

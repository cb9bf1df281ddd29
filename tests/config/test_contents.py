"""A run on other images, or of other code, is another run; and it is said what has changed."""

import gzip
import os
import shutil
import sys
import types
from pathlib import Path

import pytest
from PIL import Image

from tdbench import load_config
from tdbench.config import fingerprints, idx_files, image_folders
from tdbench.config.contents import as_far_as_known, changes, one_look
from tdbench.errors import ConfigError, DataError
from tdbench.user_code import code_of, load_object
from tests.user_files import BLOCKS, NET


def images(root: Path) -> Path:
    """Write a folder of uncompressed images, whose size does not tell what is on them."""
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (root / part / name).mkdir(parents=True)
            for number in range(3):
                Image.new("RGB", (8, 8), (90 * label, 40 * number, 0)).save(root / part / name / f"{number}.bmp")
    return root


def digest(root: Path) -> str:
    return load_config({"data": "folder", "data_root": str(root)}).digest()


def exchange_classes(root):
    (root / "train" / "cat").rename(root / "train" / "x")
    (root / "train" / "dog").rename(root / "train" / "cat")
    (root / "train" / "x").rename(root / "train" / "dog")


def exchange_images(root):
    (root / "train" / "cat" / "0.bmp").rename(root / "x")
    (root / "train" / "cat" / "1.bmp").rename(root / "train" / "cat" / "0.bmp")
    (root / "x").rename(root / "train" / "cat" / "1.bmp")


def change_a_pixel(root):
    path = root / "test" / "dog" / "2.bmp"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-3] ^= 255
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


CHANGES = {
    "one more": lambda root: shutil.copy(root / "train" / "cat" / "0.bmp", root / "train" / "cat" / "3.bmp"),
    "one less": lambda root: (root / "train" / "dog" / "1.bmp").unlink(),
    "another name": lambda root: (root / "train" / "dog" / "1.bmp").rename(root / "train" / "dog" / "9.bmp"),
    "classes exchanged": exchange_classes,
    "images exchanged": exchange_images,
    "moved to another class": lambda root: (root / "train" / "dog" / "1.bmp").rename(root / "train" / "cat" / "9.bmp"),
    "a pixel, at the same size and time": change_a_pixel,
}


@pytest.mark.parametrize("settled_ns", [fingerprints.SETTLED_NS, -(10**18)], ids=["read anew", "remembered"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_run_on_a_changed_folder_is_another_run(tmp_path, monkeypatch, change, settled_ns):
    monkeypatch.setattr(fingerprints, "SETTLED_NS", settled_ns)
    before = digest(images(tmp_path / "data"))
    assert digest(tmp_path / "data") == before
    change(tmp_path / "data")
    assert digest(tmp_path / "data") != before


def test_val_in_place_of_test_counts_in_the_same_way(tmp_path):
    with_test = digest(images(tmp_path / "data"))
    (tmp_path / "data" / "test").rename(tmp_path / "data" / "val")
    before = digest(tmp_path / "data")
    (tmp_path / "data" / "val" / "dog" / "1.bmp").unlink()
    assert len({with_test, before, digest(tmp_path / "data")}) == 3


def test_the_place_and_the_times_of_a_folder_do_not_count(tmp_path):
    before = digest(images(tmp_path / "data"))
    for path in (tmp_path / "data").rglob("*.bmp"):
        path.touch()
    (tmp_path / "data" / "train" / "cat" / ".DS_Store").touch()
    assert digest(tmp_path / "data") == before
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    (tmp_path / "data").rename(tmp_path / "moved")
    assert digest(tmp_path / "copy") == digest(tmp_path / "moved") == before


def test_images_are_read_once_and_again_where_one_has_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED_NS", -(10**18))
    before = digest(images(tmp_path / "data"))
    monkeypatch.setattr(fingerprints, "bytes_digest", lambda *_: pytest.fail("read again"))
    assert digest(tmp_path / "data") == before
    change_a_pixel(tmp_path / "data")
    with pytest.raises(pytest.fail.Exception):
        digest(tmp_path / "data")


def test_without_a_place_to_remember_images_are_read_each_time(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert digest(images(tmp_path / "data")) == digest(tmp_path / "data")


def test_of_a_large_data_set_both_ends_of_each_image_count(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "WHOLE_UP_TO", 0)
    monkeypatch.setattr(fingerprints, "END", 64)
    before = digest(images(tmp_path / "data"))
    change_a_pixel(tmp_path / "data")
    assert digest(tmp_path / "data") != before


def test_a_folder_that_is_not_there_is_named_by_its_place(tmp_path):
    assert digest(tmp_path / "a") != digest(tmp_path / "b")


def test_what_has_changed_is_told_by_name(tmp_path):
    config = load_config({"data": "folder", "data_root": str(images(tmp_path / "data"))})
    before = config.contents()
    (tmp_path / "data" / "train" / "dog" / "1.bmp").unlink()
    now = load_config(config).contents()
    (told,) = changes(before, now)
    assert told.startswith("train/dog is 3 file(s) of 738 bytes (")
    assert " there and 2 file(s) of 492 bytes (" in told
    shutil.rmtree(tmp_path / "data")
    gone = load_config(config).contents()
    assert changes(before, as_far_as_known(gone, before)) == []


# Fashion-MNIST


def fashion(root: Path, packed: bool = False, label: int = 1) -> Path:
    root.mkdir(parents=True)
    for stem in idx_files.STEMS:
        content = bytes([0, 0, 8, 1, 0, 0, 0, 1, label])
        (root / f"{stem}{'.gz' * packed}").write_bytes(gzip.compress(content) if packed else content)
    return root


def fashion_digest(root: Path) -> str:
    return load_config({"data": "fashion_mnist", "data_root": str(root)}).digest()


def test_idx_files_count_by_what_is_in_them_and_the_published_ones_not_at_all(tmp_path, monkeypatch):
    plain, other = fashion(tmp_path / "plain"), fashion(tmp_path / "other", label=2)
    nothing = fashion_digest(tmp_path / "nothing")
    assert fashion_digest(plain) == fashion_digest(fashion(tmp_path / "packed", packed=True))
    assert fashion_digest(plain) == fashion_digest(fashion(tmp_path / "torchvision" / idx_files.UNDER_ROOT).parents[1])
    assert len({nothing, fashion_digest(plain), fashion_digest(other)}) == 3
    monkeypatch.setattr(idx_files, "PUBLISHED", idx_files.contents(plain))
    assert fashion_digest(plain) == nothing != fashion_digest(other)
    before, now = (load_config({"data": "fashion_mnist", "data_root": str(at)}).contents() for at in (other, plain))
    assert now == {"data": {}}
    assert len(changes(before, as_far_as_known(now, before))) == 4  # exchanged for the published ones, not gone


# Code


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    return tmp_path / "net.py"


FORMS = {
    "import a.b": ("import pack.inner", ["pack/__init__.py", "pack/inner.py"]),
    "from a import b": ("from pack import inner", ["pack/__init__.py", "pack/inner.py"]),
    "from a.b import c": ("from pack.inner import value", ["pack/__init__.py", "pack/inner.py"]),
    "a package that imports beside it": ("import outer", ["outer/__init__.py", "outer/near.py", "alone.py"]),
    "by text": ("import importlib\nimportlib.import_module('alone')", ["alone.py"]),
    "in a function": ("def f():\n    import alone", ["alone.py"]),
    "a folder without a file of its own": ("from bare import leaf", ["bare/leaf.py"]),
    "in a circle": ("import circle", ["circle.py"]),
    "installed": ("import torch, os, tdbench, yaml", []),
    "missing": ("import nowhere_to_be_found", []),
    "not Python": ("import broken", ["broken.py"]),
    "from above": (
        "try:\n    from ........................... import q\nexcept ImportError:\n    import alone",
        ["alone.py"],
    ),
}


@pytest.mark.parametrize(("code", "found"), FORMS.values(), ids=FORMS)
def test_code_is_a_file_with_all_that_it_imports_of_the_user_s(tmp_path, code, found):
    files = {
        "pack/__init__.py": "",
        "pack/inner.py": "value = 1",
        "outer/__init__.py": "from . import near",
        "outer/near.py": "from ..alone import x\nimport alone",
        "alone.py": "",
        "bare/leaf.py": "",
        "circle.py": "import mine",
        "broken.py": "def (",
        "mine.py": code,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert sorted(code_of(f"{tmp_path / 'mine.py'}:f").files) == sorted(["mine.py", *found])


def test_code_elsewhere_on_the_path_counts_too(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "of_mine_elsewhere.py").write_text("")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").write_text("import of_mine_elsewhere")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    assert list(code_of(f"{tmp_path / 'here' / 'mine.py'}:f").files) == ["mine.py", "../lib/of_mine_elsewhere.py"]


def test_a_change_in_what_is_imported_makes_another_run_and_is_imported_anew(net):
    name = f"{net}:make_model"
    first = load_config({"model": name}).digest()
    assert load_object(name)(3, 1)[0][0].out_channels == 4
    (net.parent / "blocks.py").write_text(BLOCKS.replace("nn.ReLU()", "nn.Tanh()"))
    after = load_config({"model": name})
    assert after.digest() != first
    assert type(load_object(name)(3, 1)[0][1]).__name__ == "Tanh"


def test_code_that_imports_nothing_of_the_user_s_has_its_own_digest(tmp_path):
    (tmp_path / "mine.py").write_text("import torch")
    code = code_of(f"{tmp_path / 'mine.py'}:f")
    assert code.digest == code.parts["mine.py"]


def test_modules_that_the_user_imported_are_left_to_the_user(net, monkeypatch):
    theirs = types.ModuleType("blocks")
    theirs.__file__ = str(net.parent / "blocks.py")
    exec(BLOCKS, vars(theirs))
    monkeypatch.setitem(sys.modules, "blocks", theirs)
    load_object(f"{net}:make_model")
    (net.parent / "blocks.py").write_text(BLOCKS + "# changed")
    load_object(f"{net}:make_model")
    assert sys.modules["blocks"] is theirs


def test_neighbours_of_one_name_in_two_folders_are_two(net):
    other = net.parent / "other"
    other.mkdir()
    (other / "mine.py").write_text(NET)
    (other / "blocks.py").write_text(BLOCKS.replace("nn.ReLU()", "nn.Tanh()"))
    for _ in range(2):
        assert type(load_object(f"{net}:make_model")(3, 1)[0][1]).__name__ == "ReLU"
        assert type(load_object(f"{other / 'mine.py'}:make_model")(3, 1)[0][1]).__name__ == "Tanh"
        net.write_text(NET + "# changed")


@pytest.mark.parametrize("name", ["folder", "fashion_mnist"])
@pytest.mark.parametrize("root", ["a\0b", "\ud800", "x" * 5000, "~a\0b/c"])
def test_a_place_that_cannot_be_is_no_data(name, root):
    assert load_config({"data": name, "data_root": root}).contents() == {}
    assert len(load_config({"data": name, "data_root": root}).digest()) == 12


@pytest.mark.parametrize("name", ["a\0b.py:X", "~a\0b/c.py:X", "\ud800.py:X", f"{'x' * 5000}.py:X"])
@pytest.mark.parametrize("key", ["model", "regularizer"])
def test_code_that_cannot_be_is_refused_in_a_line(key, name):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config({key: {"name": name}}).digest()


def test_what_a_function_imports_is_imported_anew_too(tmp_path):
    (tmp_path / "lazily.py").write_text("def f():\n    import behind_lazily\n    return behind_lazily.V\n")
    for value in (1, 22, 333):
        (tmp_path / "behind_lazily.py").write_text(f"V = {value}")
        assert load_object(f"{tmp_path / 'lazily.py'}:f")() == value


def test_a_folder_that_cannot_be_read_is_no_folder_that_is_gone(tmp_path, monkeypatch):
    images(tmp_path / "data")

    def fail(*_):
        raise PermissionError(13, "Permission denied", "1.bmp")

    monkeypatch.setattr(fingerprints, "bytes_digest", fail)
    with pytest.raises(DataError, match=r"1\.bmp cannot be read: Permission denied"):
        digest(tmp_path / "data")


def test_what_was_remembered_in_another_form_is_worked_out_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED_NS", -(10**18))
    before = digest(images(tmp_path / "data"))
    monkeypatch.setattr(fingerprints, "bytes_digest", lambda *_: "another form")
    assert digest(tmp_path / "data") == before
    monkeypatch.setattr(fingerprints, "FORM", fingerprints.FORM + 1)
    assert digest(tmp_path / "data") != before


def test_a_command_looks_at_its_data_once_and_the_next_one_anew(tmp_path, monkeypatch):
    images(tmp_path / "data")
    looks, contents = [], image_folders.contents
    monkeypatch.setattr(image_folders, "contents", lambda root: looks.append(root) or contents(root))
    config = load_config({"data": "folder", "data_root": str(tmp_path / "data")})
    with one_look():
        for _ in range(3):
            load_config(config).digest()
    assert len(looks) == 1
    change_a_pixel(tmp_path / "data")
    with one_look():
        changed = load_config(config).digest()
    assert len(looks) == 2
    assert load_config(config).digest() == changed
    assert len(looks) == 3

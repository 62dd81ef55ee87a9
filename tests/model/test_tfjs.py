"""Graph models of TensorFlow.js: numbers read exactly, broken files named."""

import json

import numpy as np
import pytest

from kdc_model.tfjs import load_graph_weights


def write(folder, weights, data, name="net.json", paths=("net.bin",)):
    (folder / name).write_text(json.dumps({"weightsManifest": [{"paths": list(paths), "weights": weights}]}))
    if data is not None:
        (folder / "net.bin").write_bytes(data)
    return folder / name


def test_every_way_of_storing_numbers(tmp_path):
    half = np.array([[0.5, -2.0], [1.25, 3.0]], np.float16)
    full = np.array([1 / 3], np.float32)
    levels = np.array([0, 128, 255], np.uint8)
    bytes_ = {"dtype": "uint8", "scale": 0.5, "min": -1}
    weights = [
        {"name": "half", "shape": [2, 2], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "axis", "shape": [], "dtype": "int32"},
        {"name": "full", "shape": [1], "dtype": "float32"},
        {"name": "levels", "shape": [3], "dtype": "float32", "quantization": bytes_},
    ]
    data = half.tobytes() + np.int32(3).tobytes() + full.tobytes() + levels.tobytes()
    read = load_graph_weights(write(tmp_path, weights, data))
    assert set(read) == {"half", "full", "levels"}  # an axis is no weight
    assert read["half"].tolist() == half.tolist()
    assert read["full"].numpy() == full and read["full"].dtype.is_floating_point
    assert read["levels"].tolist() == [-1.0, 63.0, 126.5]


def test_shards_follow_each_other_and_a_renamed_file_is_found(tmp_path):
    weights = [{"name": "a", "shape": [4], "dtype": "float32"}]
    data = np.arange(4, dtype=np.float32).tobytes()
    path = write(tmp_path, weights, data, paths=("one", "two"))
    assert load_graph_weights(path)["a"].tolist() == [0, 1, 2, 3]  # net.bin, beside net.json
    (tmp_path / "net.bin").unlink()
    (tmp_path / "one").write_bytes(data[:6])
    (tmp_path / "two").write_bytes(data[6:])
    assert load_graph_weights(path)["a"].tolist() == [0, 1, 2, 3]


def test_broken_models_say_what_is_wrong(tmp_path):
    weights = [{"name": "a", "shape": [4], "dtype": "float32"}]
    with pytest.raises(FileNotFoundError, match=r"no pretrained weights at .*none\.json"):
        load_graph_weights(tmp_path / "none.json")
    with pytest.raises(FileNotFoundError, match=r"net\.json needs its weights beside it: no net\.bin"):
        load_graph_weights(write(tmp_path, weights, None))
    with pytest.raises(ValueError, match=r"net\.bin ends within 'a'"):
        load_graph_weights(write(tmp_path, weights, bytes(15)))
    with pytest.raises(ValueError, match=r"net\.bin holds 1 bytes more than net\.json says"):
        load_graph_weights(write(tmp_path, weights, bytes(17)))
    for text in ("", "[]", "{}", '{"weightsManifest": [{"paths": ["net.bin"]}]}', '{"weightsManifest": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match=r"bad\.json is not a TensorFlow\.js graph model"):
            load_graph_weights(tmp_path / "bad.json")
    quantized = {"dtype": "uint8", "scale": "x", "min": 0}
    for change in (
        {"dtype": "string"}, {"dtype": "object"}, {"shape": ["b"]}, {"shape": [-1]}, {"shape": [4.5]}, {"name": [1]},
        {"quantization": quantized}, {"quantization": {"dtype": "uint8", "scale": 1}},
    ):  # fmt: skip
        path = write(tmp_path, [{"name": "a", "shape": [4], "dtype": "float32", **change}], bytes(16), "bad.json")
        with pytest.raises(ValueError, match=r"bad\.json is not a TensorFlow\.js graph model"):
            load_graph_weights(path)

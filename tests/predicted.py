"""What `experiments.predict` says of labelled inputs, read back from the files it writes."""

import csv
import json
import pathlib

import numpy as np

from experiments import predict


def predicted(
    run: pathlib.Path, out: pathlib.Path, inputs, labels
) -> tuple[np.ndarray, np.ndarray]:
    """Classes and scores in predictions.csv of the model in `run`; the summary is their share of right classes."""
    out.mkdir()
    np.savez(out / "test.npz", inputs=inputs, labels=labels)
    cfg = predict.Config(out / "said", run, data=out / "test.npz")
    summary = predict.main(cfg)
    with (cfg.out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(len(labels)))
    label = np.array([int(row["prediction"]) for row in rows])
    assert summary["test_accuracy"] == np.mean(label == labels)
    assert json.loads((cfg.out / "summary.json").read_text()) == summary
    assert (cfg.out / "raster.png").read_bytes()[:4] == b"\x89PNG"
    names = [name for name in rows[0] if name.startswith("score_")]
    scores = [[float(row[name]) for name in names] for row in rows]
    return label, np.array(scores)

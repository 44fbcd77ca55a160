"""Figures of a stream against matrices worked out by hand."""

import numpy as np
import pytest

from jsnn.continual import metrics
from jsnn.plot import continual as continual_figures

NAN = np.nan
# Three tasks; above the diagonal what was measured before training.
R = np.array([[0.9, 0.5, 0.4], [0.6, 0.8, 0.6], [0.7, 0.4, 1.0]])
SEEN = np.where(np.tri(3), R, NAN)
COUNTS = np.array([1.0, 3.0, 4.0])


def test_average_accuracy():
    for matrix in (R, SEEN):  # what lies above the diagonal does not count
        np.testing.assert_allclose(metrics.average_accuracy(matrix), [0.9, 0.7, 0.7])
        assert metrics.final_accuracy(matrix) == pytest.approx(0.7)
        assert metrics.average_incremental_accuracy(matrix) == pytest.approx(2.3 / 3)
    # (0.6 + 3 * 0.8) / 4 and (0.7 + 3 * 0.4 + 4 * 1.0) / 8
    np.testing.assert_allclose(
        metrics.average_accuracy(R, COUNTS), [0.9, 0.75, 5.9 / 8]
    )


def test_forgetting_and_transfer():
    assert metrics.forgetting(SEEN) == pytest.approx((0.2 + 0.4) / 2)
    assert metrics.backward_transfer(SEEN) == pytest.approx((-0.2 - 0.4) / 2)
    at_random = np.array([0.5, 0.3, 0.2])
    assert metrics.forward_transfer(R, at_random) == pytest.approx((0.2 + 0.4) / 2)
    assert np.isnan(metrics.forward_transfer(SEEN, at_random))


def test_definitions_of_forgetting_differ_where_the_last_task_helps():
    helped = np.array([[0.5, NAN], [0.7, 0.9]])
    assert metrics.forgetting(helped, "ever") == 0
    assert metrics.forgetting(helped, "before") == pytest.approx(-0.2)
    # The best of task 0 lies between first and last: backward transfer does not see it.
    peak = np.array([[0.5, NAN, NAN], [0.9, 0.8, NAN], [0.6, 0.8, 0.9]])
    assert metrics.forgetting(peak) == pytest.approx(0.15)
    assert metrics.backward_transfer(peak) == pytest.approx(0.05)


def test_single_and_empty_tasks():
    one = np.array([[0.8]])
    assert metrics.final_accuracy(one) == metrics.average_incremental_accuracy(one)
    assert np.isnan(metrics.forgetting(one))
    assert np.isnan(metrics.backward_transfer(one))
    empty = np.array([[0.8, NAN, NAN], [0.6, NAN, NAN], [0.5, NAN, 0.9]])
    np.testing.assert_allclose(metrics.average_accuracy(empty), [0.8, 0.6, 0.7])
    assert metrics.forgetting(empty) == pytest.approx(0.3)
    assert metrics.backward_transfer(empty) == pytest.approx(-0.3)


def test_a_run_of_joint_training_has_a_last_row_only():
    joint = np.full((3, 3), NAN)
    joint[2] = [0.9, 0.8, 1.0]
    assert metrics.final_accuracy(joint) == pytest.approx(0.9)
    assert metrics.forgetting(joint) == 0
    assert np.isnan(metrics.backward_transfer(joint))


def test_summary_is_flat_and_complete():
    found = metrics.figures(SEEN, SEEN, COUNTS) | metrics.entries(SEEN, SEEN)
    assert found["final_accuracy"] == pytest.approx(5.9 / 8)
    assert found["accuracy_after_3_on_2"] == 0.4
    assert "accuracy_after_1_on_2" not in found
    assert sum(k.startswith("task_il_accuracy_after") for k in found) == 6
    assert all(isinstance(v, float) for v in found.values())


def test_a_matrix_that_is_none_is_refused():
    for wrong in (np.ones((2, 3)), np.ones((0, 0))):
        with pytest.raises(ValueError, match="square matrix"):
            metrics.average_accuracy(wrong)


def test_figures_show_what_they_are_given():
    figure = continual_figures.heat_map(SEEN)
    texts = {t.get_text() for t in figure.axes[0].texts}
    assert texts == {"90.0", "60.0", "80.0", "70.0", "40.0", "100.0"}
    figure = continual_figures.curves({"naive": SEEN, "other": R}, COUNTS)
    np.testing.assert_allclose(
        figure.axes[0].lines[0].get_ydata(), [0.9, 0.75, 5.9 / 8]
    )
    predictions, labels = np.array([0, 1, 1, 1]), np.array([0, 0, 1, 2])
    figure = continual_figures.prediction_histogram(predictions, labels, "abc")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [1, 1, 0, 0, 2, 0]  # right, then wrong, a class each

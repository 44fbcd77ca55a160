"""Streams of tasks: how they are written, cut, and refused."""

import numpy as np
import pytest

from jsnn.continual.stream import make_stream, parse_tasks

LABELS = np.array([3, 0, 1, 2, 3, 0, 1, 2, 0, 3, 4, 0])
TEST = np.array([0, 1, 2, 3, 3, 4])


def stream(tasks, **options):
    return make_stream(LABELS, TEST, tasks, num_classes=5, **options)


@pytest.mark.parametrize(
    ("text", "tasks"),
    [
        ("5x2", ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))),
        ("2x3", ((0, 1, 2), (3, 4, 5))),
        ("0,1|5|2,3,4", ((0, 1), (5,), (2, 3, 4))),
        ("7", ((7,),)),
        ("1,2||3", ((1, 2), (), (3,))),
    ],
)
def test_tasks_are_written_by_number_or_listed(text, tasks):
    assert parse_tasks(text, 10) == tasks


def test_a_seed_shuffles_classes_as_pycil_does():
    order = np.random.RandomState(1993).permutation(100)
    found = parse_tasks("10x10", 100, order_seed=1993)
    np.testing.assert_array_equal(np.ravel(found), order)
    assert order[0] == 68  # the first class of PyCIL's published CIFAR-100 order


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        ("6x2", {}, "6 tasks of 2 classes.*10 classes"),
        ("0x2", {}, "0 tasks"),
        ("two", {}, "'5x2' or '0,1|2,3', got 'two'"),
        ("0,1|2", {"order_seed": 1}, "order_seed"),
    ],
)
def test_tasks_that_make_no_sense(text, options, words):
    with pytest.raises(ValueError, match=words.replace("|", r"\|")):
        parse_tasks(text, 10, **options)


def test_columns_follow_the_order_of_appearance():
    found = stream([[3], [1, 0], []])
    np.testing.assert_array_equal(found.column_of, [2, 1, -1, 0, -1])
    assert [t.columns for t in found.tasks] == [(0,), (1, 2), ()]
    assert [found.num_open(t) for t in (-1, 0, 1, 2)] == [0, 1, 3, 3]
    np.testing.assert_array_equal(found.tasks[0].train, [0, 4, 9])
    np.testing.assert_array_equal(found.tasks[0].test, [3, 4])
    np.testing.assert_array_equal(found.tasks[1].train, [1, 2, 5, 6, 8, 11])
    assert found.tasks[2].train.size == found.tasks[2].test.size == 0
    assert found.num_left_out == 3  # classes 2 and 4


def test_repeated_classes_are_refused_unless_said_how():
    tasks = [[0, 1], [2, 0], [0]]
    with pytest.raises(
        ValueError, match=r"class 0 in task 0 and again in task 1.*'again'.*'split'"
    ):
        stream(tasks)
    again = stream(tasks, repeated="again")
    assert again.num_columns == 3
    np.testing.assert_array_equal(again.tasks[2].train, [1, 5, 8, 11])
    assert again.num_open(0) == 2
    assert again.num_open(1) == again.num_open(2) == 3
    split = stream(tasks, repeated="split")
    zeros = [t.train[LABELS[t.train] == 0] for t in split.tasks]
    assert [len(z) for z in zeros] == [2, 1, 1]
    np.testing.assert_array_equal(np.sort(np.concatenate(zeros)), [1, 5, 8, 11])
    assert (np.diff(split.tasks[1].train) > 0).all()
    for task in split.tasks:
        assert set(TEST[task.test]) == set(task.classes)  # tested in each


def test_domain_incremental_tasks_share_columns():
    found = stream([[0, 1], [3, 2]], scenario="domain")
    np.testing.assert_array_equal(found.column_of, [0, 1, 1, 0, -1])
    assert found.num_columns == 2
    with pytest.raises(ValueError, match="class 1 at two different places"):
        stream([[0, 1], [1, 0]], scenario="domain", repeated="again")


def test_places_within_tasks():
    found = stream([[3], [1, 0]])
    of_task, place = found.positions(1)
    np.testing.assert_array_equal(of_task, [0, 1, 1])
    np.testing.assert_array_equal(place, [0, 0, 1])


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([[0, 5]], r"class 5.*0 to 4"),
        ([[-1]], "class -1"),
        ([[0, 0]], "twice within task 0"),
        ([[], []], "no class"),
        ([], "no class"),
    ],
)
def test_labels_outside_and_empty_streams(tasks, words):
    with pytest.raises(ValueError, match=words):
        stream(tasks)


@pytest.mark.parametrize("repeated", ["again", "split"])
def test_validation_samples_are_a_share_of_each_class(repeated):
    sizes = [40, 10, 3, 2, 70]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(5), sizes))
    tasks = [[0, 3], [2], [0, 1]]  # class 4 never comes

    def cut(num_validation, seed=0):
        return make_stream(
            labels,
            TEST,
            tasks,
            num_classes=5,
            repeated=repeated,
            num_validation=num_validation,
            seed=seed,
        )

    found = cut(11).tasks
    held = np.unique(np.concatenate([t.validation for t in found]))
    # 11 of 55: a fifth of 40, 10, 3 and 2, and the last two have at least one.
    assert np.bincount(labels[held], minlength=5).tolist() == [7, 2, 1, 1, 0]
    trained = np.concatenate([t.train for t in found])
    assert not {*held} & {*trained}
    assert {*held} | {*trained} == {*np.flatnonzero(labels < 4)}
    for task in found:
        wanted = held[np.isin(labels[held], task.classes)]
        np.testing.assert_array_equal(task.validation, wanted)
    same, other = (cut(11, seed).tasks[0].validation for seed in (0, 1))
    np.testing.assert_array_equal(same, found[0].validation)
    assert not np.array_equal(other, same)
    assert not any(len(t.validation) for t in cut(0).tasks)
    # At most all but one of each class.
    assert np.bincount(labels[np.concatenate([t.train for t in cut(51).tasks])])[
        [1, 2, 3]
    ].tolist() == [1, 1, 1]
    for number in (-1, 3, 52):
        with pytest.raises(
            ValueError, match=rf"`num_validation` .* 4..51 .* {number};"
        ):
            cut(number)


def test_a_class_of_one_sample_cannot_be_held_out():
    with pytest.raises(ValueError, match="the smallest class has 1"):
        make_stream(
            np.array([0, 0, 1]), TEST, [[0], [1]], num_classes=2, num_validation=2
        )

"""Cells of a confusion matrix."""

import numpy as np

from imgcls.report import confusion_matrix


def test_cells_of_few_classes_are_a_whole_table():
    matrix = confusion_matrix.cells([[3, 1], [0, 0]], ["a", "b"])
    assert [[cell["count"] for cell in row] for row in matrix["rows"]] == [[3, 1], [0, 0]]
    assert [[cell["rate"] for cell in row] for row in matrix["rows"]] == [[0.75, 0.25], [0, 0]]
    assert matrix["rows"][0][1]["title"] == "a predicted as b: 1 of 4"
    assert matrix["rows"][0][0]["colour"] == confusion_matrix.CORRECT


def test_cells_of_many_classes_are_those_that_are_not_empty():
    k = confusion_matrix.MAX_TABLE + 1
    matrix = confusion_matrix.cells(np.eye(k, dtype=int), [f"class {i}" for i in range(k)])
    assert matrix["rows"] is None
    assert [(cell["row"], cell["column"]) for cell in matrix["cells"]] == [(i, i) for i in range(k)]
    assert matrix["size"] == k * matrix["side"]

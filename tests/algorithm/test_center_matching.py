"""Centers are matched at the least cost, and changes are told by their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_kmeans.algorithm.center_matching import (
    NONE,
    Flows,
    Relations,
    best_partners,
    changes,
    ids_like,
    mutual_partners,
    relations_by_distance,
    relations_by_rows,
)

POINTS = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=1, max_size=6)


def least_cost(old, new):
    """Try all matchings of two small sets of points."""
    few, many = sorted((old, new), key=len)
    costs = np.sqrt(((few[:, None] - many[None]) ** 2).sum(axis=2))
    return min(
        sum(costs[row, column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(len(many)), len(few))
    )


@settings(max_examples=40)
@given(POINTS, POINTS)
def test_the_partners_are_one_to_one_and_no_other_matching_costs_less(old, new):
    old, new = np.array(old, np.float32), np.array(new, np.float32)

    partners = best_partners(old, new)

    matched = partners[partners != NONE]
    assert len(matched) == len(set(matched)) == min(len(old), len(new))
    cost = np.sqrt(((new[partners != NONE] - old[matched]) ** 2).sum(axis=1)).sum()
    assert cost == pytest.approx(least_cost(old, new))


def test_a_center_that_has_not_moved_is_matched_with_itself_however_the_others_move():
    rng = np.random.default_rng(1)
    old = rng.normal(size=(40, 3)).astype(np.float32)
    new = np.concatenate([old[25:], 3 * rng.normal(size=(20, 3)).astype(np.float32)])

    assert best_partners(old, new)[:15].tolist() == list(range(25, 40))


def test_a_large_assignment_is_that_of_scipy():
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(4)
    for a, b in ((150, 150), (90, 140), (140, 90)):
        old, new = (rng.normal(size=(k, 3)).astype(np.float32) for k in (a, b))
        costs = np.sqrt(((old[:, None].astype(float) - new) ** 2).sum(axis=2))
        rows, columns = linear_sum_assignment(costs)

        partners = best_partners(old, new)

        expected = np.full(b, NONE)
        expected[columns] = rows
        assert partners.tolist() == expected.tolist()


@given(POINTS, POINTS)
def test_mutual_partners_are_each_others_nearest(old, new):
    old, new = np.array(old), np.array(new)
    costs = ((old[:, None] - new[None]) ** 2).sum(axis=2)

    partners = mutual_partners(costs.argmin(axis=1), costs.argmin(axis=0))

    for j, i in enumerate(partners.tolist()):
        nearest = int(costs[:, j].argmin())
        assert i == (nearest if costs[nearest].argmin() == j else NONE)


@given(st.lists(st.integers(0, 9), unique=True, max_size=8), st.data())
def test_ids_are_those_of_the_partners_and_else_the_free_ones_in_order(partners, data):
    partners = data.draw(st.permutations(partners + [NONE] * data.draw(st.integers(1, 3))))

    ids = ids_like(np.array(partners)).tolist()

    k = len(partners)
    assert sorted(ids) == list(range(k))
    kept = {j: i for j, i in enumerate(partners) if 0 <= i < k}
    assert {j: ids[j] for j in kept} == kept
    rest = [ids[j] for j in range(k) if j not in kept]
    assert rest == sorted(rest)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 3)), min_size=1),
    st.integers(0, 30),
)
def test_flows_of_parts_add_up_to_those_of_all_rows(rows, cut):
    def flows(some):
        some = np.array(some, np.int64).reshape(-1, 3)
        return Flows.of(some[:, :2], some[:, 2], (len(some), 2 * len(some)))

    whole = flows(rows[:cut]) + flows(rows[cut:])

    table = np.zeros((4, 5), int)
    for old, new, weight in rows:
        table[old, new] += weight
    assert whole.losses == (len(rows), 2 * len(rows))
    assert whole.sizes(0, 4).tolist() == table.sum(axis=1).tolist()
    assert whole.sizes(1, 5).tolist() == table.sum(axis=0).tolist()
    assert [whole.between(i, j) for i in range(4) for j in range(5)] == table.ravel().tolist()
    assert whole.pairs.tolist() == np.argwhere(table).tolist()


@given(st.lists(st.lists(st.integers(0, 4), min_size=3, max_size=3), min_size=1, max_size=4))
def test_by_rows_clusters_belong_together_that_share_more_than_half(table):
    table = np.array(table)
    pairs = np.argwhere(table)
    flows = Flows.of(pairs, table[tuple(pairs.T)], (0, 0))

    found = relations_by_rows(flows, np.full(3, NONE), len(table))

    for side, each in ((found.targets, table), (found.sources, table.T)):
        for here, row in enumerate(each):
            most = [there for there, rows in enumerate(row) if 2 * rows > row.sum()]
            assert side[here] == (most or [NONE])[0]


TOLD = {  # partners, targets, sources -> (old, new, kind, others)
    "moved only": (([1, 0], [1, 0], [1, 0]), ["1 0 kept", "0 1 kept"]),
    "split": (([0, NONE, 1], [0, 2], [0, 0, 1]), ["0 0 split 0,1", "- 1 split", "1 2 kept"]),
    "an even split": (([0, NONE], [NONE], [0, 0]), ["0 0 split 0,1", "- 1 split"]),
    "merged": (([0, 2], [0, 0, 1], [0, 2]), ["0 0 merged", "2 1 kept", "1 - merged 0"]),
    "new": (([0, NONE], [0], [0, NONE]), ["0 0 kept", "- 1 new"]),
    "vanished": (([0], [0, NONE], [0]), ["0 0 kept", "1 - vanished"]),
    "a match of strangers": (
        ([0, 1], [0, NONE], [0, NONE]),
        ["0 0 kept", "- 1 new", "1 - vanished"],
    ),
    "a crossed match": (([0, 1], [1, 0], [1, 0]), ["1 0 kept", "0 1 kept"]),
}


@pytest.mark.parametrize("case", TOLD)
def test_what_became_of_a_cluster_follows_from_where_its_larger_part_is(case):
    given_, expected = TOLD[case]

    found = changes(Relations(*(np.array(each) for each in given_)))

    told = []
    for each in found:
        old, new = ("-" if number is None else number for number in (each.old, each.new))
        parts = ",".join(map(str, each.parts)) if len(each.parts) > 1 or each.new is None else ""
        told.append(f"{old} {new} {each.kind} {parts}".strip())
    assert told == expected


@st.composite
def relations(draw):
    a, b = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    free = draw(st.permutations([*range(a), *[NONE] * b]))[:b]
    targets = draw(st.lists(st.integers(NONE, b - 1), min_size=a, max_size=a))
    sources = draw(st.lists(st.integers(NONE, a - 1), min_size=b, max_size=b))
    return Relations(*(np.array(each) for each in (free, targets, sources)))


@given(relations())
def test_every_cluster_is_told_once(given_):
    found = changes(given_)

    olds = [each.old for each in found if each.old is not None]
    news = [each.new for each in found if each.new is not None]
    assert sorted(olds) == list(range(len(given_.targets)))
    assert news == list(range(len(given_.sources)))
    for each in found:
        if each.old is not None and each.new is not None:
            i, j = each.old, each.new
            assert given_.targets[i] == j or given_.sources[j] == i


@given(POINTS, POINTS)
def test_by_distance_a_center_belongs_to_one_that_is_nearer_than_its_neighbour(old, new):
    old, new = np.array(old, float), np.array(new, float)
    costs = np.sqrt(((old[:, None] - new[None]) ** 2).sum(axis=2))

    def gap(points, here):
        others = np.delete(points, here, axis=0)
        return np.sqrt(((others - points[here]) ** 2).sum(axis=1)).min(initial=np.inf)

    gaps = [np.array([gap(side, here) for here in range(len(side))]) for side in (old, new)]
    found = relations_by_distance(
        np.full(len(new), NONE),
        (costs.argmin(axis=1), costs.min(axis=1)),
        (costs.argmin(axis=0), costs.min(axis=0)),
        (gaps[0], gaps[1]),
    )

    for side, each, others in ((found.targets, costs, new), (found.sources, costs.T, old)):
        for here, row in enumerate(each):
            nearest = int(row.argmin())
            is_near = row[nearest] < gap(others, nearest)
            assert side[here] == (nearest if is_near else NONE)

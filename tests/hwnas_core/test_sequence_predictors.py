"""The MLP and the LSTM of the PNAS paper: what they compute, what they read, and how well they learn."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from hwnas import FeasibleSet
from hwnas.evaluation import RestrictedSpace
from hwnas.evaluation.restricted import as_keys
from hwnas.predictors.sequence import KINDS, LSTM, MLP, SequenceSurrogate
from hwnas.predictors.tokens import ABSENT, Tokens
from spaces import InputError, SearchSpace, get_space

MACRO = get_space("nasbench_macro")
PNAS = get_space("pnas@2x24")
NASNET = get_space("nasnet@4x1056")
CELLS = get_space("nasbench101")
SPACES = {"macro": MACRO, "pnas": PNAS, "nasnet": NASNET, "cells": CELLS, "proxyless": get_space("proxyless@w0.25")}
QUICK = {"mlp": SequenceSurrogate("mlp", width=16, epochs=30), "lstm": SequenceSurrogate("lstm", width=16, epochs=20)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- tokens ---


def test_inputs_and_operations_of_blocks_share_their_tokens():
    """The paper's (I1, I2, O1, O2): 6 states and 8 operations, wherever they stand."""
    tokens = Tokens.of_space(PNAS)
    assert tokens.slots == 4
    assert tokens.vocabulary == 1 + 6 + 8
    row = np.full((1, 20), -1)
    row[0, :8] = [0, 1, 3, 5, 0, 2, 3, 7]  # canonical already
    assert np.array_equal(PNAS.canonical(row), row)
    (found,) = tokens(row)
    assert found[[0, 1, 4, 5]].tolist() == [1, 2, 1, 3]
    assert found[[2, 3, 6, 7]].tolist() == [7 + 3, 7 + 5, 7 + 3, 7 + 7]
    assert (found[8:] == ABSENT).all()


class HalfInOrder(SearchSpace):
    """Keys are rows of the space where the first gene is 0, and else none of its rows."""

    name, choices = "half", (2, 3, 3)

    def is_valid(self, population):
        return self.in_range(population)

    def layers(self, arch, task):
        raise NotImplementedError

    def canonical(self, population):
        keys = population.copy()
        keys[:, 1:] = np.sort(keys[:, 1:], axis=1)
        keys[keys[:, 0] == 1] = -7
        return keys


def some_table(space):
    rows = space.sample(400, np.random.default_rng(5))
    return RestrictedSpace(space, rows[np.unique(space.canonical(rows), axis=0, return_index=True)[1]])


@pytest.mark.parametrize(
    "space", [*SPACES.values(), *map(some_table, SPACES.values()), get_space("darts"), HalfInOrder()]
)
def test_a_row_is_read_alike_whatever_stands_beside_it(space):
    inner = space.inner if isinstance(space, RestrictedSpace) else space
    rows = inner.sample(60, np.random.default_rng(1))
    tokens = Tokens.of_space(space)
    together, alone = tokens(rows), [tokens(row[None])[0] for row in rows]
    assert np.array_equal(together, alone)
    assert np.array_equal(together, Tokens.of_space(inner)(rows))  # nor does a table that it is in or not
    assert np.array_equal(as_keys(inner, rows), [as_keys(inner, row[None])[0] for row in rows])


def test_where_a_key_is_a_row_it_is_what_is_read():
    rows = np.array([[0, 2, 1], [1, 2, 1], [0, 1, 2]])
    assert as_keys(HalfInOrder(), rows).tolist() == [[0, 1, 2], [1, 2, 1], [0, 1, 2]]


def test_genes_that_mean_the_same_share_their_tokens_in_other_spaces():
    assert Tokens.of_space(MACRO).of.tolist() == [[1, 2, 3]] * 8
    cells = Tokens.of_space(CELLS)
    is_edge = np.array(CELLS.choices) == 2
    assert np.unique(cells.of[is_edge][:, :2]).tolist() == [1, 2]
    assert np.unique(cells.of[~is_edge]).tolist() == [3, 4, 5]
    nasnet = Tokens.of_space(NASNET)
    assert nasnet.slots == 10  # a block of both cells
    assert nasnet.vocabulary == 1 + 6 + 13 + 2
    # A proxyless layer 3x3-3 has one token wherever it stands; the first layer has blocks of its own.
    proxyless = SPACES["proxyless"]
    found = Tokens.of_space(proxyless).of
    assert (found[1:, 0] == found[1, 0]).all()
    assert found[0, 0] not in found[1:]


@pytest.mark.parametrize("name", SPACES)
def test_tokens_tell_networks_apart_and_read_isomorphic_ones_alike(name):
    space = SPACES[name]
    rows = space.sample(400, np.random.default_rng(0))
    tokens = Tokens.of_space(space)(rows)
    assert tokens.max() < Tokens.of_space(space).vocabulary
    assert ((tokens != ABSENT).sum(axis=1) > 0).all()
    _, of_keys = np.unique(space.canonical(rows), axis=0, return_inverse=True)
    _, of_tokens = np.unique(tokens, axis=0, return_inverse=True)
    pairs = np.unique(np.stack([of_keys.ravel(), of_tokens.ravel()]), axis=1).shape[1]
    assert pairs == of_keys.max() + 1 == of_tokens.max() + 1


def test_a_restricted_space_is_read_as_the_space_itself():
    rows = CELLS.simplest(91, np.random.default_rng(0))
    few = RestrictedSpace(CELLS, rows)
    assert np.array_equal(Tokens.of_space(few)(rows), Tokens.of_space(CELLS)(rows))


# --- what they compute ---


def test_the_lstm_is_that_of_torch():
    """Member by member, row by row, without padding."""
    tokens, width, members = Tokens.of_space(PNAS), 7, 3
    parameters = LSTM.initial(tokens, width, members, generator())
    rows = np.concatenate([PNAS.sample(6, np.random.default_rng(0)), PNAS.simplest(4, np.random.default_rng(0))])
    inputs = LSTM.inputs(tokens, rows)
    found = LSTM.forward(parameters, inputs.expand(members, *inputs.shape))
    E, W_in, W_state, bias, W_out, b_out = parameters
    theirs = nn.LSTM(width, width, batch_first=True)
    order = torch.cat([torch.arange(width) + part * width for part in (0, 1, 3, 2)])  # torch: in, forget, cell, out
    for m in range(members):
        state = {
            "weight_ih_l0": W_in[m].T[order],
            "weight_hh_l0": W_state[m].T[order],
            "bias_ih_l0": bias[m, 0][order],
            "bias_hh_l0": torch.zeros(4 * width),
        }
        theirs.load_state_dict(state)
        for row, value in zip(tokens(rows), found[m], strict=True):
            with torch.no_grad():
                last = theirs(E[m][torch.from_numpy(row[row != ABSENT])][None])[0][0, -1]
            expected = torch.sigmoid(last @ W_out[m] + b_out[m])
            torch.testing.assert_close(value, expected[0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("space", [PNAS, NASNET, CELLS], ids=["pnas", "nasnet", "cells"])
def test_the_mlp_reads_the_mean_of_blocks(space):
    """By the definition: embeddings of a block side by side, the mean over blocks, two layers of ReLU."""
    tokens, width, members = Tokens.of_space(space), 5, 2
    parameters = [p + 0.1 for p in MLP.initial(tokens, width, members, generator(1))]  # biases are not 0 then
    rows = space.sample(20, np.random.default_rng(0))
    inputs = MLP.inputs(tokens, rows)
    found = MLP.forward(parameters, inputs.expand(members, *inputs.shape))
    for m in range(members):
        E, W1, b1, W2, b2, W3, b3 = (parameter[m].double() for parameter in parameters)
        for row, value in zip(tokens(rows), found[m], strict=True):
            blocks = [block for block in row.reshape(-1, tokens.slots) if (block != ABSENT).any()]
            embedded = [torch.cat([E[t] if t != ABSENT else torch.zeros(width) for t in block]) for block in blocks]
            x = torch.relu(torch.stack(embedded).mean(dim=0) @ W1 + b1)
            x = torch.relu(x @ W2 + b2)
            torch.testing.assert_close(value.double(), torch.sigmoid(x @ W3 + b3)[0, 0], rtol=1e-5, atol=1e-6)


def test_before_training_the_output_is_that_of_the_bias():
    """Nearly: 1 / (1 + exp(-1.8)) = 0.858."""
    for kind in ("mlp", "lstm"):
        untrained = replace(QUICK[kind], epochs=1, learning_rates=(1e-12,))
        rows = MACRO.sample(30, np.random.default_rng(0))
        mean, _ = untrained.fit(rows, np.full(30, 0.5), feasible=FeasibleSet(MACRO), seed=0).predict(rows)
        assert mean == pytest.approx(0.858, abs=0.05)


# --- how they learn ---


@pytest.mark.parametrize(("kind", "scaled"), list(itertools.product(["mlp", "lstm"], [False, True])))
def test_a_sum_over_genes_is_learned(kind, scaled):
    rng = np.random.default_rng(0)
    rows = np.unique(MACRO.canonical(MACRO.sample(400, rng)), axis=0)
    rows = rng.permutation(rows)
    truth = 0.8 + 0.005 * rows.sum(axis=1)
    model = QUICK[kind]
    if scaled:
        model, truth = replace(model, output_bias=None), 100 * truth - 500
    fitted = model.fit(rows[:100], truth[:100], feasible=FeasibleSet(MACRO), seed=0)
    mean, std = fitted.predict(rows[100:])
    assert spearmanr(mean, truth[100:]).statistic > 0.93
    assert np.abs(mean - truth[100:]).mean() < 0.3 * truth.std()
    assert (std > 0).all()


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_cells_of_more_blocks_are_ranked_by_what_smaller_ones_taught(kind):
    """Trained on one block, asked of two: an operation is worth as much in both."""
    rng = np.random.default_rng(0)
    worth = np.linspace(-1, 1, 8)
    one = PNAS.simplest(136, rng)
    two = rng.permutation(PNAS.grow(one[::7]))[:300]

    def value(rows):
        blocks = PNAS.canonical(rows).reshape(len(rows), -1, 4)
        used = blocks[..., 2:] >= 0
        return 0.85 + 0.05 * (np.where(used, worth[blocks[..., 2:]], 0).sum(axis=(1, 2)) / used.sum(axis=(1, 2)))

    fitted = QUICK[kind].fit(one, value(one), feasible=FeasibleSet(PNAS), seed=0)
    assert spearmanr(fitted.predict(one)[0], value(one)).statistic > 0.9
    assert spearmanr(fitted.predict(two)[0], value(two)).statistic > 0.7


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_the_seed_decides_everything(kind):
    rows = MACRO.sample(40, np.random.default_rng(0))
    values = 0.5 + rows.sum(axis=1) / 100
    first, again, other = (
        QUICK[kind].fit(rows, values, feasible=FeasibleSet(MACRO), seed=seed).predict(rows)[0] for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_member_never_sees_the_part_that_it_leaves_out():
    """A wild value of one network reaches all members but one."""
    rows = np.unique(MACRO.canonical(MACRO.sample(60, np.random.default_rng(0))), axis=0)[:40]
    values = np.full(40, 0.5)
    wild = values.copy()
    wild[7] = 1.0
    model, feasible = QUICK["mlp"], FeasibleSet(MACRO)
    plain, told = (model.fit(rows, v, feasible=feasible, seed=3).predict_members(rows) for v in (values, wild))
    same = [np.array_equal(a, b) for a, b in zip(plain, told, strict=True)]
    assert sum(same) == 1


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_each_network_is_told_left_out_by_the_member_that_never_saw_it(kind):
    """That member is the one which a wild value of the network does not reach; stds are of the others' errors."""
    rows = np.unique(MACRO.canonical(MACRO.sample(60, np.random.default_rng(0))), axis=0)[:15]
    values = 0.5 + rows.sum(axis=1) / 50
    model, feasible = replace(QUICK[kind], members=3, epochs=5), FeasibleSet(MACRO)
    fitted = model.fit(rows, values, feasible=feasible, seed=3)
    members, left_out = fitted.predict_members(rows), fitted.left_out()
    own = []
    for place in range(len(rows)):
        wild = values.copy()
        wild[place] = 1.0
        other = model.fit(rows, wild, feasible=feasible, seed=3).predict_members(rows)
        (member,) = np.flatnonzero((other == members).all(axis=1))
        own.append(member)
    own = np.array(own)
    mean = members[own, np.arange(15)]
    assert left_out.at(0.0).tolist() == mean.tolist()
    stds = [np.sqrt(np.mean((mean - values)[own != member] ** 2)) for member in own]
    assert left_out.at(1.0) - left_out.at(0.0) == pytest.approx(stds)


def test_what_is_left_out_says_how_good_a_model_is():
    """Values that nothing explains are not known left out, however well members learn them."""
    rng = np.random.default_rng(0)
    rows = np.unique(MACRO.canonical(MACRO.sample(200, rng)), axis=0)[:100]
    for values, least, most in ((0.5 + rows.sum(axis=1) / 50, 0.9, 1.0), (rng.uniform(0.4, 0.6, 100), -0.4, 0.4)):
        fitted = QUICK["mlp"].fit(rows, values, feasible=FeasibleSet(MACRO), seed=0)
        assert least < spearmanr(fitted.left_out().at(0.0), values).statistic < most
        assert spearmanr(fitted.predict(rows)[0], values).statistic > most - 0.1


# --- settings of the paper (section 3.4 and supplement) ---


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("mlp", [(100,), (4 * 100, 100), (1, 100), (100, 100), (1, 100), (100, 1), (1, 1)]),
        ("lstm", [(100,), (100, 4 * 100), (100, 4 * 100), (1, 4 * 100), (100, 1), (1, 1)]),
    ],
)
def test_five_members_of_the_papers_sizes_learn_at_its_two_rates(kind, shapes, monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def watched(self, *arguments):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    rows = PNAS.simplest(30, np.random.default_rng(0))
    model = SequenceSurrogate(kind, epochs=3)
    fitted = model.fit(rows, np.linspace(0.4, 0.6, 30), feasible=FeasibleSet(PNAS), seed=0)
    tokens = Tokens.of_space(PNAS)
    expected = [(5, *shape) for shape in shapes]
    expected[0] = (5, tokens.vocabulary, 100)
    assert [tuple(each.shape) for each in fitted.parameters] == expected
    assert rates == [0.01] * 3 + [0.002] * 3  # a pass is one step of 24
    assert model.output_bias == 1.8


def test_each_of_the_papers_five_members_learns_from_four_fifths(monkeypatch):
    seen, forward = [], MLP.forward

    def watched(parameters, inputs):
        seen.append(inputs.shape[:2])
        return forward(parameters, inputs)

    monkeypatch.setattr(MLP, "forward", staticmethod(watched))
    rows = PNAS.simplest(50, np.random.default_rng(0))
    model = SequenceSurrogate("mlp", epochs=1, learning_rates=(0.01,), batch=100)
    model.fit(rows, np.linspace(0.4, 0.6, 50), feasible=FeasibleSet(PNAS), seed=0)
    assert seen[0] == (5, 40)


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_the_loss_of_the_paper_is_the_absolute_error(kind):
    """Of one network with many values the median is learned, 0.3, not the mean, 0.54."""
    rows = np.repeat(MACRO.sample(1, np.random.default_rng(0)), 50, axis=0)
    values = np.repeat([0.3, 0.9], [30, 20])
    mean, _ = QUICK[kind].fit(rows, values, feasible=FeasibleSet(MACRO), seed=0).predict(rows[:1])
    assert mean[0] == pytest.approx(0.3, abs=0.05)


def test_mean_and_std_are_those_of_the_members_and_the_size_of_a_batch_changes_nothing():
    rows = CELLS.sample(1500, np.random.default_rng(0))
    values = np.linspace(0.4, 0.6, 30)
    fitted = QUICK["lstm"].fit(rows[:30], values, feasible=FeasibleSet(CELLS), seed=0)
    members = fitted.predict_members(rows)
    mean, std = fitted.predict(rows)
    assert mean == pytest.approx(np.mean(members, axis=0))
    assert std == pytest.approx(np.std(members, axis=0, ddof=1))
    assert fitted.predict(rows[1400:])[0] == pytest.approx(mean[1400:], abs=1e-6)
    assert fitted.predict(rows[:0])[0].shape == (0,)


def test_bad_input_is_named():
    rows, feasible = MACRO.sample(20, np.random.default_rng(0)), FeasibleSet(MACRO)
    model = QUICK["mlp"]
    with pytest.raises(InputError, match=r"fractions in 0\.\.1, got 90"):
        model.fit(rows, np.full(20, 90.0), feasible=feasible, seed=0)
    with pytest.raises(InputError, match="as many finite values"):
        model.fit(rows, np.full(20, np.nan), feasible=feasible, seed=0)
    with pytest.raises(InputError, match="as many finite values"):
        model.fit(rows, np.full(19, 0.5), feasible=feasible, seed=0)
    with pytest.raises(InputError, match="at least 5 evaluated networks, got 4"):
        model.fit(rows[:4], np.full(4, 0.5), feasible=feasible, seed=0)
    with pytest.raises(InputError, match="one of mlp, lstm"):
        SequenceSurrogate("gru")
    with pytest.raises(InputError, match="width, epochs and batch"):
        SequenceSurrogate("mlp", members=1)
    with pytest.raises(InputError, match="learning rates"):
        SequenceSurrogate("mlp", learning_rates=(0.01, 0.0))


@pytest.mark.parametrize("kind", ["mlp", "lstm"])
def test_one_thread_learns_and_predicts_and_the_others_are_given_back(kind, monkeypatch):
    """So small a network takes many times as long on more, and more so beside busy workers."""
    seen, forward = set(), KINDS[kind].forward

    def watched(parameters, inputs):
        seen.add(torch.get_num_threads())
        return forward(parameters, inputs)

    monkeypatch.setattr(KINDS[kind], "forward", staticmethod(watched))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        rows = MACRO.sample(12, np.random.default_rng(0))
        fitted = replace(QUICK[kind], epochs=1).fit(
            rows, np.linspace(0.2, 0.8, 12), feasible=FeasibleSet(MACRO), seed=0
        )
        fitted.predict(rows)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == {1}


def test_intervals_of_observed_values_hold_their_noise():
    rows = np.unique(MACRO.canonical(MACRO.sample(600, np.random.default_rng(0))), axis=0)
    values = 0.5 + 0.02 * rows.sum(axis=1) + np.random.default_rng(1).normal(0, 0.03, len(rows))
    fitted = QUICK["mlp"].fit(rows[:150], values[:150], feasible=FeasibleSet(MACRO), seed=0)
    assert 0.02 < fitted.noise < 0.05
    true, observed = fitted.believe(rows[150:]), fitted.foretell(rows[150:])
    inside = [((b.at(-1.96) <= values[150:]) & (values[150:] <= b.at(1.96))).mean() for b in (true, observed)]
    assert inside[0] < 0.85
    assert 0.9 < inside[1] < 0.99

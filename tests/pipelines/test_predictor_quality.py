"""`hwnas bench --predictor`: what predictors are judged on, and figures on real tables."""

import csv
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from hwnas.evaluation.table_files import CELLS_FILE, MACRO_FILE, MACRO_RUNS
from hwnas.predictors.surrogate import FittedSurrogate, Surrogate
from pipelines import predictor_quality, seeds
from pipelines.benchmark import open_table
from pipelines.cli import app
from pipelines.predictor_quality import LEAST, MEASURES, PREDICTORS, Asked, judge, judge_all
from pipelines.progress import Listener
from spaces import InputError, Task, get_space

TABLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "tables"
SPACE, TASK = get_space("nasbench_macro"), Task(32, 10)
TOML = 'space = "nasbench_macro"\nfile = "table.csv"\nkey = "arch"\naccuracy = "val"\nunit = "fraction"\n'


def needs(file):
    return pytest.mark.skipif(
        not (TABLES / file).exists(), reason=f"the shared table {file} is not beside this checkout"
    )


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """A table of 300 networks whose accuracies rise with their depth and width."""
    folder = tmp_path_factory.mktemp("table")
    every = np.array(list(itertools.product(range(3), repeat=8)))
    rows = np.random.default_rng(0).permutation(np.unique(SPACE.canonical(every), axis=0))[:300]
    accuracy = 0.9 - 0.4 * np.exp(-rows @ np.linspace(0.1, 0.3, 8)) + np.random.default_rng(1).normal(0, 0.004, 300)
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["arch", "val"], *zip(map(SPACE.format, rows), accuracy, strict=True)])
    (folder / "mine.toml").write_text(TOML)
    return str(folder / "mine.toml")


def invoked(*arguments):
    result = CliRunner().invoke(app, ["bench", *map(str, arguments), "--workers", "1"])
    return result.exit_code, result.stdout, result.stderr


class Spy(Surrogate, FittedSurrogate):
    """Predicts the flops, in whatever unit, and remembers what it was given and asked."""

    def fit(self, population, values, *, feasible, seed):
        self.seen, self.values, self.seed = population, values, seed
        return self

    def predict(self, population):
        self.asked = population
        return SPACE.counts(population, TASK)[0] / 1e10, np.full(len(population), 0.1)


def test_a_predictor_sees_n_values_and_is_asked_about_all_others(described, monkeypatch):
    spy = Spy()
    monkeypatch.setitem(PREDICTORS, "gp", lambda n: spy)
    table = open_table(described, "", False).table
    for seed, n in ((0, 20), (1, 20), (0, 50)):
        found = judge(Asked(described, "", False, "gp", n, seed))
        key = {tuple(row): place for place, row in enumerate(table.rows)}
        seen, asked = ([key[tuple(row)] for row in rows] for rows in (spy.seen, spy.asked))
        assert len(seen) == n
        assert sorted([*seen, *asked]) == list(range(300))
        np.testing.assert_array_equal(spy.values, table.columns["val"][seen])
        # The figures by their definitions, from scipy.
        mean, truth = SPACE.counts(table.rows[asked], TASK)[0] / 1e10, table.columns["val"][asked]
        assert found.kendall_tau == pytest.approx(stats.kendalltau(mean, truth).statistic)
        assert found.spearman == pytest.approx(stats.spearmanr(mean, truth).statistic)
        assert found.mse == pytest.approx(np.mean((100 * mean - 100 * truth) ** 2))
        assert found.coverage == np.mean(np.abs(mean - truth) <= 1.959964 * 0.1)
        assert (found.mse_passed, found.mse_above) == (None, None)  # a described table has no threshold
    assert len({tuple(np.sort(part)) for part in (seen[:20], asked)}) == 2


def test_behind_a_threshold_by_its_definition(described, monkeypatch):
    monkeypatch.setitem(PREDICTORS, "gp", lambda n: Spy())
    benchmark = open_table(described, "", False)
    monkeypatch.setitem(predictor_quality.THRESHOLDS, benchmark.name, 0.85)
    found = judge(Asked(described, "", False, "gp", 30, 0))
    rest = np.random.default_rng([0, 30]).permutation(300)[30:]
    mean, truth = SPACE.counts(benchmark.table.rows[rest], TASK)[0] / 1e10, benchmark.table.columns["val"][rest]
    error = (100 * mean - 100 * truth) ** 2
    assert found.mse_above == pytest.approx(error[truth > 0.85].mean())
    monkeypatch.setattr(predictor_quality, "TRAINED", 0.8)
    assert judge(Asked(described, "", False, "gp", 30, 0)).mse_trained == pytest.approx(error[truth >= 0.8].mean())
    passed = mean >= 0.85
    assert found.mse_passed == (pytest.approx(error[passed].mean()) if passed.any() else None)


def test_the_command_prints_means_and_intervals_and_goes_on(described, tmp_path, monkeypatch):
    options = (
        "--predictor",
        "ridge",
        "--predictor",
        "gp",
        "--n",
        20,
        "--n",
        40,
        "--seeds",
        3,
        "--out",
        tmp_path / "out",
    )
    code, stdout, _ = invoked(described, *options, "--json")
    assert code == 0
    printed = json.loads(stdout)
    assert [(row["predictor"], row["n"], row["seeds"]) for row in printed["qualities"]] == [
        (name, n, 3) for name in ("ridge", "gp") for n in (20, 40)
    ]
    for row in printed["qualities"]:
        found = [judge(Asked(described, "data", False, row["predictor"], row["n"], seed)) for seed in range(3)]
        for measure in ("kendall_tau", "spearman", "mse", "coverage"):
            values = [getattr(each, measure) for each in found]
            low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
            assert row[measure] == pytest.approx(np.mean(values))
            if np.std(values) > 0:
                high = high if measure == "mse" else min(high, 1.0)  # a correlation or share is no more
                low = max(low, 0.0 if measure in ("mse", "coverage") else -1.0)
                assert (row[f"{measure}_low"], row[f"{measure}_high"]) == pytest.approx((low, high))
    with (tmp_path / "out" / "qualities.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["kendall_tau"]) for row in rows] == [row["kendall_tau"] for row in printed["qualities"]]
    assert set(MEASURES) < set(rows[0])
    # The same number twice counts no seed twice, and a folder shows all that it holds.
    again = ("--predictor", "gp", "--n", 20, "--n", 20, "--seeds", 3, "--out", tmp_path / "out", "--json")
    code, stdout, _ = invoked(described, *again)
    found = {(row["predictor"], row["n"]): row["seeds"] for row in json.loads(stdout)["qualities"]}
    assert found == {(name, n): 3 for name in ("ridge", "gp") for n in (20, 40)}
    # What is recorded is not fitted again; the text holds the same.
    monkeypatch.setattr(predictor_quality, "judge", None)
    code, stdout, _ = invoked(described, *options)
    assert code == 0
    assert f"{printed['qualities'][0]['kendall_tau']:.3f} +- " in stdout
    assert invoked(described, *options, "--data-root", tmp_path)[0] == 0  # wherever files of named tables would be
    # And a folder of other fits is not gone on with.
    other = tmp_path / "mine.toml"
    text = Path(described).read_text().replace("table.csv", str(Path(described).parent / "table.csv"))
    other.write_text(text)
    assert invoked(other, *options)[0] == 0  # the same table in another place
    other.write_text(text + "classes = 7\n")
    open_table.cache_clear()
    code, _, stderr = invoked(other, *options)
    assert (code, "do not say, origin: table" in " ".join(stderr.split())) == (2, True)
    monkeypatch.setattr(seeds, "code_digest", lambda: "changed")
    code, _, stderr = invoked(described, *options)
    assert (code, "do not say, origin: code" in " ".join(stderr.split())) == (2, True)
    assert "the code or a library has changed since" in " ".join(stderr.split())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--predictor", "oracle"], "there is no predictor oracle"),
        (["--predictor", "gp", "--n", "1"], "2 to 298"),
        (["--predictor", "gp", "--n", "299"], "2 to 298"),
        (["--predictor", "gp", "--seeds", "0"], "at least one seed"),
        (["--predictor", "gp", "--strategy", "random"], "of strategies or of predictors"),
        (["--predictor", "gcn", "--n", "4"], "gcn needs at least 5 networks"),
        (["--predictor", "ridge", "--predictor", "gp", "--n", "3"], "ridge needs at least 4 networks"),
    ],
)
def test_what_does_not_go_together_is_named(described, options, says):
    code, _, stderr = invoked(described, *options)
    assert code == 2
    assert says in " ".join(stderr.split())


def test_one_failing_fit_is_named_and_the_others_go_on(described, tmp_path, monkeypatch):
    class Fails(Spy):
        def fit(self, population, values, *, feasible, seed):
            if seed == 1:
                raise InputError("nothing passes")
            return super().fit(population, values, feasible=feasible, seed=seed)

    monkeypatch.setitem(PREDICTORS, "gp", lambda n: Fails())
    options = (described, "--predictor", "gp", "--n", 20, "--seeds", 3, "--out", tmp_path)
    code, stdout, _ = invoked(*options, "--json")
    assert code == 0
    printed = json.loads(stdout)
    assert printed["failures"] == [{"predictor": "gp", "n": 20, "seed": 1, "reason": "nothing passes"}]
    (row,) = printed["qualities"]
    assert (row["seeds"], row["failed"]) == (2, 1)
    found = [judge(Asked(described, "data", False, "gp", 20, seed)) for seed in (0, 2)]
    assert row["kendall_tau"] == pytest.approx(np.mean([each.kendall_tau for each in found]))
    assert "gp from 20, seed 1, failed: nothing passes" in invoked(*options)[1]
    # Nor is it forgotten where the folder is gone on with for another predictor, whatever else lies there.
    (tmp_path / "fits" / "gp-20-0 (copy).json").write_text("{}")
    other = ("--predictor", "ridge", "--n", 20, "--seeds", 1, "--out", tmp_path, "--json")
    code, stdout, _ = invoked(described, *other)
    assert (code, json.loads(stdout)["failures"]) == (0, printed["failures"])
    kept = {row["predictor"]: row for row in json.loads(stdout)["qualities"]}
    assert (kept["gp"]["seeds"], kept["gp"]["failed"], kept["ridge"]["seeds"]) == (2, 1, 1)
    # What failed is tried again, and nothing else is.
    asked = []
    monkeypatch.setattr(predictor_quality, "judge", lambda each: asked.append(each.seed) or replace(found[0], seed=1))
    code, stdout, _ = invoked(*options, "--json")
    assert (code, asked, json.loads(stdout)["failures"]) == (0, [1], [])
    gp, _ridge = json.loads(stdout)["qualities"]
    assert (gp["seeds"], gp["failed"]) == (3, 0)
    # A folder that does not say what its fits come from is not gone on with.
    file = tmp_path / "fits" / "gp-20-0.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "of"}))
    code, _, stderr = invoked(*options)
    assert (code, "do not say, table, noisy, predictor" in " ".join(stderr.split())) == (2, True)


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_fewer_networks_than_a_predictor_needs_are_refused_by_itself_too(described, name):
    with pytest.raises(InputError, match=r"at least \d"):
        judge(Asked(described, "", False, name, LEAST[name] - 1, 0))


@pytest.mark.parametrize("name", sorted(PREDICTORS))
def test_every_predictor_learns_from_ten(described, name, monkeypatch):
    made = PREDICTORS[name](10)
    if name == "cascade-paper":
        with pytest.raises(InputError, match="on either side"):  # nothing here is above 91 %
            judge(Asked(described, "", False, name, 10, 0))
        return
    if name.endswith("-paper"):  # their 300 passes take seconds
        network = made if hasattr(made, "epochs") else made.network
        quick = type(network)(**{**vars(network), "epochs": 2})
        monkeypatch.setitem(PREDICTORS, name, lambda n: quick if made is network else type(made)(quick))
    if name == "gcn-paper-tuned":
        quick_ones = tuple(replace(each, epochs=2) for each in made.candidates)
        monkeypatch.setitem(PREDICTORS, name, lambda n: replace(made, candidates=quick_ones))
    found = judge(Asked(described, "", False, name, 10, 0))
    assert np.isfinite([found.kendall_tau, found.spearman, found.mse, found.coverage]).all()


@needs(MACRO_FILE)
def test_noisy_runs_rotate_and_the_mean_of_all_three_is_the_truth(monkeypatch):
    spy = Spy()
    monkeypatch.setitem(PREDICTORS, "gp", lambda n: spy)
    table = open_table("nasbench_macro", str(TABLES), True).table
    key = {tuple(row): place for place, row in enumerate(table.rows)}
    for seed in range(4):
        found = judge(Asked("nasbench_macro", str(TABLES), True, "gp", 50, seed))
        seen, asked = ([key[tuple(row)] for row in rows] for rows in (spy.seen, spy.asked))
        np.testing.assert_array_equal(spy.values, table.columns[MACRO_RUNS[seed % 3]][seen])
        truth = np.mean([table.columns[run][asked] for run in MACRO_RUNS], axis=0)
        mean = SPACE.counts(table.rows[asked], TASK)[0] / 1e10
        assert found.kendall_tau == pytest.approx(stats.kendalltau(mean, truth).statistic)
        # What is observed there is one run, of the very kind that was learned.
        observed = table.columns[MACRO_RUNS[seed % 3]][asked]
        assert found.coverage == np.mean(np.abs(mean - observed) <= 1.959964 * 0.1)


def _means(table, names, n, seeds, *, noisy=False):
    found = judge_all(
        table, names, [n], range(seeds), data=str(TABLES), noisy=noisy, out=None, workers=1, listener=Listener()
    )
    return {row["predictor"]: row for row in found["qualities"]}


@pytest.mark.slow
@needs(CELLS_FILE)
def test_the_two_stages_of_the_paper_on_cells():
    """Wen et al.: error 1.95 of one stage, 0.66 behind the classifier; a public rerun 3.62 and 0.74, tau 0.545."""
    found = _means("nasbench101", ["gcn-paper", "cascade-paper"], 172, 2)
    one, two = found["gcn-paper"], found["cascade-paper"]
    assert one["kendall_tau"] > 0.545
    assert 1.0 < one["mse_trained"] < 3.62
    assert 0.3 < two["mse_above"] < 1.0


@pytest.mark.slow
@needs(MACRO_FILE)
def test_the_default_ensemble_on_macro():
    """A Gaussian process on operation counts reaches 0.856 there, extremely randomised trees 0.820."""
    found = _means("nasbench_macro", ["gcn", "gp"], 119, 6, noisy=True)
    assert found["gcn"]["kendall_tau"] > 0.856
    assert found["gcn"]["coverage"] > 0.9
    assert found["gp"]["kendall_tau"] > 0.88

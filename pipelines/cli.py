"""The command `hwnas`: parse, validate, call. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from spaces import InputError, Task

from .progress import TerminalListener
from .strategies import DEFAULT, STRATEGIES

STARTED = time.monotonic()
DONE, FAILED, BAD_INPUT, INFEASIBLE = 0, 1, 2, 3

app = typer.Typer(
    name="hwnas",
    help="Find convolutional networks for your images, your device and your limits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Data = Annotated[str, typer.Option(help="digits, cifar10, fashion-mnist, or a FOLDER with one folder a class.")]
DataRoot = Annotated[Path, typer.Option(help="Where cifar10 and fashion-mnist lie, or are downloaded to.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch cifar10 or fashion-mnist if it is not there.")]
Space = Annotated[
    str | None,
    typer.Option(help="Search space, such as proxyless@w0.5 or my_space.py:MySpace. Default: by resolution."),
]
Resolution = Annotated[int | None, typer.Option(help="Image size in pixels. Default: the set's own; 96 for a folder.")]
Limits = Annotated[
    list[str] | None,
    typer.Option("--limit", help="Such as 'latency_ms<=3' or 'params<=2M'; repeat for several at once."),
]
SoftLimits = Annotated[
    list[str] | None,
    typer.Option(
        "--soft-limit",
        help="Such as 'params<=1M@0.5': may be missed, but half of the accuracy counts at twice as many; repeatable.",
    ),
]
StrategyName = Annotated[str, typer.Option("--strategy", help=f"What proposes networks: {', '.join(STRATEGIES)}.")]
WarmStart = Annotated[
    bool, typer.Option("--warm-start", help="Start edited networks from the weights of what they were made from.")
]
Budget = Annotated[str | None, typer.Option(help="How long the whole run may take: 90s, 3m, 1h30m.")]
Trials = Annotated[int | None, typer.Option(help="How many networks to try, instead of a budget.")]
Epochs = Annotated[
    float | None, typer.Option(help="Epochs of each trial; 0.5 is half of one. Default: from the budget, or 5.")
]
FinalEpochs = Annotated[float | None, typer.Option(help="Epochs of final trainings. Default: from the budget, or 20.")]
Finalists = Annotated[int | None, typer.Option(help="How many networks are trained to the end.")]
ValidationShare = Annotated[float, typer.Option(help="Share of the training images kept for validation.")]
DeviceTable = Annotated[
    Path | None,
    typer.Option(help="Latency table to use instead of measuring: of this device, or of another, made by a kit."),
]
Seed = Annotated[int, typer.Option(help="Decides everything that is drawn.")]
TrainDevice = Annotated[
    str, typer.Option("--device", help="Where to train: auto, cpu, cuda, cuda:1, mps. Latency is of the CPU.")
]
Workers = Annotated[int | None, typer.Option(help="Trainings at once. Default: one a core; 2 on a GPU.")]
Run = Annotated[Path | None, typer.Option(help="Run folder; an existing one is gone on with. Default: a new one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command("search", epilog="Example: hwnas search --data digits --limit 'latency_ms<=0.7' --budget 3m")
def search_command(
    data: Data,
    limit: Limits = None,
    device_table: DeviceTable = None,
    budget: Budget = None,
    trials: Trials = None,
    strategy: StrategyName = DEFAULT,
    soft_limit: SoftLimits = None,
    warm_start: WarmStart = False,
    space: Space = None,
    resolution: Resolution = None,
    data_root: DataRoot = Path("data"),
    download: Download = False,
    epochs: Epochs = None,
    final_epochs: FinalEpochs = None,
    finalists: Finalists = None,
    validation_share: ValidationShare = 0.15,
    seed: Seed = 0,
    device: TrainDevice = "auto",
    workers: Workers = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Search for the most accurate network under the limits, and deploy it as a measured ONNX file."""
    settings = {key: value for key, value in locals().items() if key not in {"run", "as_json"}}
    _guarded(as_json, lambda: _search("search", settings, run, as_json))


@app.command("frontier", epilog="Example: hwnas frontier --data cifar10 --limit 'params<=1M' --budget 2h --finalists 8")
def frontier_command(
    data: Data,
    limit: Limits = None,
    device_table: DeviceTable = None,
    budget: Budget = None,
    trials: Trials = None,
    strategy: StrategyName = DEFAULT,
    soft_limit: SoftLimits = None,
    warm_start: WarmStart = False,
    space: Space = None,
    resolution: Resolution = None,
    data_root: DataRoot = Path("data"),
    download: Download = False,
    epochs: Epochs = None,
    final_epochs: FinalEpochs = None,
    finalists: Finalists = None,
    validation_share: ValidationShare = 0.15,
    seed: Seed = 0,
    device: TrainDevice = "auto",
    workers: Workers = None,
    run: Run = None,
    as_json: AsJson = False,
) -> None:
    """Produce the accuracy-latency frontier: every member trained to the end and measured."""
    settings = {key: value for key, value in locals().items() if key not in {"run", "as_json"}}
    _guarded(as_json, lambda: _search("frontier", settings, run, as_json))


@app.command("deploy", epilog="Example: hwnas deploy runs/digits-20260101-120000 --pick fastest --out for-the-device")
def deploy_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    pick: Annotated[
        str,
        typer.Option(help="best (by validation) or fastest, first of those that surely meet the limits, or a name."),
    ] = "best",
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: the model's own in the run.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write a final model of a run as ONNX, checked against torch on real images and measured."""

    def work() -> dict[str, Any]:
        from .deploy import deploy
        from .run_folder import RunFolder

        outcome = deploy(RunFolder.existing(run), pick, out)
        if not as_json:
            checks, model = outcome["checks"], outcome["model"]
            print(f"{outcome['name']} written to {outcome['folder']}")
            print(f"  {model['arch']}")
            print(f"  latency {_latency(model)}, test accuracy {_accuracy(model)}")
            print(f"  {model['certificate']['statement']}")
            print(
                f"  on {checks['parity_images']} images ONNX Runtime and torch agree in {checks['agreement']:.1%} of "
                f"the predictions, logits differ by at most {checks['largest_difference']:.2g}"
            )
        return {"folder": outcome["folder"], "name": outcome["name"], "checks": outcome["checks"]}

    _guarded(as_json, work)


@app.command("profile", epilog="Example: hwnas profile mobilenet-v2 proxyless-mobile --resolution 96")
def profile_command(
    networks: Annotated[list[str], typer.Argument(help="Published names, SPACE:GENES texts, or ONNX files.")],
    resolution: Annotated[int | None, typer.Option(help="Image size in pixels. Default: as published, or 224.")] = None,
    classes: Annotated[int | None, typer.Option(help="Number of classes. Default: as published, or 1000.")] = None,
    channels: Annotated[int | None, typer.Option(help="Channels of the images. Default: 3.")] = None,
    space: Annotated[str | None, typer.Option(help="Your own space, FILE.py:CLASS, that texts may be of.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Of one inference; repeat for several. Default: 1.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images at once; repeat for several. Default: 1.")] = None,
    provider: Annotated[str, typer.Option(help="ONNX Runtime's name of what computes.")] = "CPUExecutionProvider",
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Count and measure networks on this device; the one command that measures other providers than the CPU."""

    def work() -> dict[str, Any]:
        from .profile import print_profile, profile

        outcome = profile(
            networks,
            seed=seed,
            resolution=resolution,
            classes=classes,
            channels=channels,
            space=space,
            threads=threads or (1,),
            batches=batch or (1,),
            provider=provider,
        )
        if not as_json:
            print_profile(outcome, Console(width=None if sys.stdout.isatty() else 160))  # a pipe has no width
        return outcome

    _guarded(as_json, work)


@app.command(
    "bench", epilog="Example: hwnas bench nasbench_macro --strategy random --strategy nsga2 --trials 100 --seeds 50"
)
def bench_command(
    context: typer.Context,
    table: Annotated[str, typer.Argument(help="nasbench101, nasbench_macro, or a TOML file that describes a table.")],
    strategy: Annotated[
        list[str] | None, typer.Option(help="Repeat for several. Default: random, evolution20, iterated.")
    ] = None,
    predictor: Annotated[
        list[str] | None, typer.Option(help="Judge predictors instead of strategies; repeat for several.")
    ] = None,
    n: Annotated[
        list[int] | None, typer.Option("--n", help="Networks that predictors learn from; repeatable. Default: 172.")
    ] = None,
    levels: Annotated[
        bool, typer.Option("--levels", help="Judge predictors on networks one size larger than what they learn from.")
    ] = False,
    no_costs: Annotated[bool, typer.Option("--no-costs", help="With --levels: hide params and flops.")] = False,
    trials: Annotated[int, typer.Option(help="Networks that each search may train.")] = 100,
    seeds: Annotated[int, typer.Option(help="Searches of each strategy, with the seeds 0, 1, ...")] = 10,
    objective: Annotated[
        str, typer.Option(help="accuracy; hypervolume: share of the table's; front: share of its points found.")
    ] = "accuracy",
    cost: Annotated[
        list[str] | None, typer.Option(help="Objective beside the accuracy; repeatable. Default: flops.")
    ] = None,
    noisy: Annotated[
        bool, typer.Option("--noisy", help="nasbench_macro: search one run, judge by the others.")
    ] = False,
    limit: Limits = None,
    data_root: Annotated[Path, typer.Option(help="Folder with the files of the named tables, or the file.")] = Path(
        "data"
    ),
    workers: Annotated[int | None, typer.Option(help="Searches at once. Default: one a core.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for CSV and picture; an existing one is gone on with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare search strategies, or predictors, on a table of trained networks, many seeds each."""

    def work() -> dict[str, Any]:
        if predictor and strategy:
            raise InputError("a comparison is of strategies or of predictors", hint="give one of the two options")
        if levels and not predictor:
            raise InputError("--levels compares predictors", hint="name them, such as --predictor mlp --predictor lstm")
        refuse_what_would_be_ignored()
        if predictor:
            return rank_by_levels(predictor) if levels else judge_predictors(predictor)
        return compare_strategies()

    def refuse_what_would_be_ignored() -> None:
        of = {
            **dict.fromkeys(("trials", "objective", "cost", "limit"), ("strategies", not predictor)),
            "n": ("predictors", bool(predictor)),
            "no_costs": ("predictors with --levels", levels),
            **({"cost": ("another --objective than accuracy", objective != "accuracy")} if not predictor else {}),
        }
        for name, (what, holds) in of.items():
            if not holds and getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
                raise InputError(f"--{name.replace('_', '-')} is for {what}", hint="leave it out")

    def judge_predictors(names: list[str]) -> dict[str, Any]:
        from .predictor_quality import judge_all, print_qualities

        outcome = judge_all(table, names, n or [172], range(seeds), data=str(data_root), noisy=noisy, **execution())
        if not as_json:
            print_qualities(outcome)
        return outcome

    def rank_by_levels(names: list[str]) -> dict[str, Any]:
        from .levels import LevelTest, print_levels, rank_levels

        if n is not None and len(n) > 1:
            raise InputError(f"--levels learns from one number of networks, got {len(n)}", hint="give --n once")
        test = LevelTest(table, str(data_root), noisy, n[0] if n else 256, not no_costs)
        outcome = rank_levels(test, names, range(seeds), **execution())
        if not as_json:
            print_levels(outcome)
        return outcome

    def compare_strategies() -> dict[str, Any]:
        from .benchmark import Comparison, compare, print_comparison

        comparison = Comparison(
            table,
            str(data_root),
            noisy,
            trials,
            objective,
            tuple(dict.fromkeys(cost or ("flops",))),
            tuple(limit or ()),
        )
        outcome = compare(comparison, strategy or ("random", "evolution20", "iterated"), range(seeds), **execution())
        if not as_json:
            print_comparison(outcome)
        return outcome

    def execution() -> dict[str, Any]:
        if workers is not None and workers < 1:
            raise InputError(f"there must be at least one worker, got {workers}", hint="leave --workers out")
        listener = TerminalListener(Console(stderr=True))
        return {"out": out, "workers": workers or os.cpu_count() or 1, "listener": listener}

    _guarded(as_json, work)


@app.command("spaces", epilog="Example: hwnas spaces proxyless@w0.5 my_space.py:MySpace")
def spaces_command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Spaces, your own included. Default: all there are.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List search spaces: how many networks, how many genes, and an architecture of each."""

    def work() -> dict[str, Any]:
        from .listing import list_spaces, print_spaces

        outcome = list_spaces(names or ())
        if not as_json:
            print_spaces(outcome)
        return outcome

    _guarded(as_json, work)


device_app = typer.Typer(
    name="device",
    help="This device and others: what they are, and how long networks take on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(device_app)

SpaceOf = Annotated[str, typer.Option("--space", help="Search space, such as proxyless@w0.5 or my_space.py:MySpace.")]
ResolutionOf = Annotated[int, typer.Option("--resolution", help="Image size in pixels.")]
ClassesOf = Annotated[int, typer.Option("--classes", help="Number of classes.")]
ChannelsOf = Annotated[int, typer.Option("--channels", help="Channels of the images.")]


@device_app.command("show", epilog="Example: hwnas device show")
def device_show_command(
    file: Annotated[Path | None, typer.Argument(help="A latency table. Default: this device.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this device is and what is stored about it, or what a latency table says."""

    def work() -> dict[str, Any]:
        from .devices import print_file, print_here, show_file, show_here

        outcome = show_here() if file is None else show_file(file)
        if not as_json:
            (print_here if file is None else print_file)(outcome)
        return outcome

    _guarded(as_json, work)


@device_app.command(
    "measure", epilog="Example: hwnas device measure --space proxyless@w0.5 --resolution 96 --classes 5"
)
def device_measure_command(
    space: SpaceOf,
    resolution: ResolutionOf,
    classes: ClassesOf,
    channels: ChannelsOf = 3,
    budget: Annotated[str | None, typer.Option(help="How long measuring may take: 90s, 3m.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: one under $HWNAS_HOME/tables.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Measure a latency table of this device's CPU for a space, one thread, to be used by many searches."""

    def work() -> dict[str, Any]:
        from .config import parse_duration
        from .devices import measure_device, print_measured

        budget_s = None if budget is None else parse_duration(budget)
        task = Task(resolution, classes, channels)

        def say(text: str) -> None:
            print(text, file=sys.stderr)

        outcome = measure_device(space, task, seed=seed, budget_s=budget_s, out=out, say=say)
        if not as_json:
            print_measured(outcome)
        return outcome

    _guarded(as_json, work)


@device_app.command("kit", epilog="Example: hwnas device kit pi-kit --space proxyless@w0.5 --resolution 96 --classes 5")
def device_kit_command(
    out: Annotated[Path, typer.Argument(help="Folder to write: a new one.")],
    space: SpaceOf,
    resolution: ResolutionOf,
    classes: ClassesOf,
    channels: ChannelsOf = 3,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Write a folder that measures another device, where there is neither torch nor hwnas."""

    def work() -> dict[str, Any]:
        from .devices import make_kit

        outcome = make_kit(out, space, Task(resolution, classes, channels), seed=seed)
        if not as_json:
            print(f"{outcome['folder']}: {outcome['networks']} networks, {outcome['bytes'] / 1e6:.1f} MB")
            print("for: {resolution} px, {channels} channel(s), {classes} classes".format(**outcome["task"]))
            print(f"next: {outcome['next']}")
        return outcome

    _guarded(as_json, work)


@device_app.command("import", epilog="Example: hwnas device import result.json --kit pi-kit --out pi.json")
def device_import_command(
    result: Annotated[Path, typer.Argument(help="What measure.py wrote on the device.")],
    out: Annotated[Path, typer.Option(help="File to write the latency table to.")],
    kit: Annotated[Path | None, typer.Option(help="The kit's folder, to make sure that the result is of it.")] = None,
    space: Annotated[str | None, typer.Option(help="Your own space, FILE.py:CLASS, if the kit is of one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make the latency table of another device from what a kit measured there."""

    def work() -> dict[str, Any]:
        from .devices import import_kit, print_file

        outcome = import_kit(result, out, kit=kit, space=space)
        if not as_json:
            print_file(outcome)
            print(f"next: hwnas search --data ... --device-table {out}")
        return outcome

    _guarded(as_json, work)


def _search(job: str, settings: dict[str, Any], run: Path | None, as_json: bool) -> dict[str, Any]:
    from spaces import get_space

    from .config import RunConfig, default_space, parse_duration
    from .run_folder import RunFolder, new_run_path

    settings["limits"] = tuple(settings.pop("limit") or ())
    settings["soft_limits"] = tuple(settings.pop("soft_limit") or ())
    budget = settings.pop("budget")
    settings["budget_s"] = parse_duration(budget) if budget is not None else None
    settings["data_root"] = str(settings["data_root"])
    settings["device_table"] = None if settings["device_table"] is None else str(settings["device_table"])
    # Whatever can be wrong without looking at the data is said before torch is imported, which takes seconds.
    config = RunConfig.of(job=job, **{**settings, "space": settings["space"] or "proxyless"})
    get_space(config.space)
    if run is not None and settings["space"] is not None:
        RunFolder.check(run, config)

    from hwnas.training import ImageData, default_resolution

    from .search import run_search

    if settings["space"] is None:
        known = None if run is None else RunFolder(run)
        if known is not None and known.config.is_file() and known.data.exists():  # the source may be gone
            resolution = ImageData.open(known.data).task.resolution
        else:
            resolution = config.resolution or default_resolution(config.data)
        config = config.model_copy(update={"space": default_space(resolution)})
    path = run or new_run_path(Path("runs"), config.data)
    try:
        outcome = run_search(config, path, TerminalListener(Console(stderr=True)), started=STARTED)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"the same command with --run {shlex.quote(str(path))} goes on") from None
    if not as_json:
        _print_outcome(outcome)
    if outcome["meets_limits"] is False:
        raise _MissedError(outcome)
    return outcome


class _MissedError(Exception):
    """A run ended, but its best file misses a limit when measured."""

    def __init__(self, outcome: dict[str, Any]) -> None:
        super().__init__("missed")
        self.outcome = outcome


def _print_outcome(outcome: dict[str, Any]) -> None:
    chosen, waiting = outcome["chosen"], outcome["to_measure"]
    print(f"chosen         {chosen['arch']}")
    print(f"test accuracy  {_accuracy(chosen)}")
    print(f"latency        {_latency(chosen)}" + ("" if waiting else ", measured on the exported file"))
    print(f"certificate    {outcome['certificate']['statement']}")
    if (share := chosen["kept_share"]) is not None and share < 1:
        print(f"soft limits    missed: its accuracy counts {share:.3g} of what it is")
    print(f"size           {chosen['params']:,.0f} parameters, {chosen['flops']:,.0f} multiply-adds")
    if len(outcome["frontier"]) > 1:
        from .report import whole_percent

        print("final models")
        for model in outcome["frontier"]:
            not_on = "" if model["on_front"] else "not "
            how = "estimated" if waiting else "measured"
            notes = [f"{not_on}on the front as {how}, {whole_percent(model['on_front_probability'])} likely to be"]
            notes += [] if waiting or model["latency_of"].startswith("model.onnx") else ["latency before training"]
            print(f"  {model['name']}  {_latency(model)}  test accuracy {_accuracy(model)}  ({', '.join(notes)})")
    print(f"model          {outcome['model']}")
    if waiting:
        print(f"to measure     on {waiting['device']}, in the folder of the kit: {waiting['command']}")
    print(f"report         {outcome['report']}")
    print(f"run            {outcome['run']} ({outcome['trials']} trials, {outcome['seconds']:.0f} s)")


def _accuracy(model: dict[str, Any]) -> str:
    low, high = model["accuracy_test_interval"]
    return f"{model['accuracy_test']:.1%} (95 %: {low:.1%} to {high:.1%})"


def _latency(model: dict[str, Any]) -> str:
    from .latencies import is_measured, known_interval, known_ms

    low, high = known_interval(model)
    number = "unsteady" if model["latency_steady"] is False else f"{known_ms(model):.3g} ms"
    text = f"{number} (95 %: {low:.3g} to {high:.3g})"
    return text if is_measured(model) else f"{text}, estimated"


def _guarded(as_json: bool, work: Callable[[], dict[str, Any]]) -> None:
    """Run a command's work: its errors become one line and an exit code, its result JSON where that was asked."""
    code = DONE
    try:
        outcome = work()
    except _MissedError as missed:
        outcome, code = missed.outcome, INFEASIBLE
        if not as_json:
            print(
                "hwnas: no final model meets all limits when its file is measured; the one above misses them by least "
                "(relax the limit, or search longer)",
                file=sys.stderr,
            )
    except InputError as error:
        outcome, code = {"error": str(error), "hint": error.hint}, error.exit_code
    except OSError as error:
        outcome = {"error": f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), "hint": ""}
        code = BAD_INPUT
    except KeyboardInterrupt as interrupt:
        outcome, code = {"error": "interrupted", "hint": str(interrupt)}, FAILED  # empty where nothing goes on
    except Exception as error:
        outcome, code = {"error": str(error), "hint": ""}, FAILED
        if not _is_of_the_machine(error):
            traceback.print_exc()
            outcome = {"error": f"{type(error).__name__}: {error}", "hint": "this is a fault of hwnas"}
    if as_json:
        print(json.dumps(outcome))
    elif "error" in outcome:
        hint = f" ({outcome['hint']})" if outcome.get("hint") else ""
        print(f"hwnas: {outcome['error']}{hint}", file=sys.stderr)
    if code:
        raise typer.Exit(code)


def _is_of_the_machine(error: Exception) -> bool:
    """Whether measuring failed for what the machine does, and says so; imported late, since it loads ONNX Runtime."""
    from concurrent.futures.process import BrokenProcessPool

    from hwnas.execution import WorkerDiedError
    from latency.rounds import DisturbedError, ProviderError

    return isinstance(error, DisturbedError | ProviderError | WorkerDiedError | BrokenProcessPool)


def main() -> None:
    """Entry point of the command."""
    app()

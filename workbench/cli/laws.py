"""Scaling laws: fitted, planned on, and measured by our own study."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from workbench.cli.answers import say
from workbench.cli.options import JSON
from workbench.errors import InputError


@click.command()
@click.argument("file", metavar="POINTS.CSV")
@click.option("--law", default="chinchilla", show_default=True, help="Law to fit.")
@click.option("--unit", help="What the column loss is in: nats (default), bits.")
@click.option("--fixed", multiple=True, metavar="NAME=VALUE", help="Parameter that is given.")
@click.option("--bootstrap", type=int, default=0, show_default=True, help="Resamples of runs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the resamples.")
@JSON
def fit(
    file: str,
    law: str,
    unit: Any,
    fixed: tuple[str, ...],
    bootstrap: int,
    seed: int,
    as_json: bool,
) -> None:
    """Fit a scaling law to the points of POINTS.CSV and say how sure its numbers are."""
    from workbench import scaling
    from workbench.scaling.files import given_parameters, read_points
    from workbench.scaling.written import as_dict, as_text

    frame = scaling.with_loss(read_points(file), unit)
    given = given_parameters(fixed)
    fitted = scaling.fit(frame, law, fixed=given, bootstrap=bootstrap, seed=seed)
    say(as_dict(fitted) if as_json else as_text(fitted))


@click.command()
@click.option("--target-epsilon", type=float, required=True, help="Largest ε allowed at δ.")
@click.option("--records", type=float, help="Records there are; the fewest are sought without.")
@click.option("--target-perplexity", type=float, help="Perplexity a token to be reached.")
@click.option("--compute", type=float, help="FLOPs that may be spent.")
@click.option("--delta", type=float, default=1e-8, show_default=True, help="δ.")
@click.option("--record-tokens", type=int, default=512, show_default=True, help="Tokens a record.")
@click.option("--points", metavar="POINTS.CSV", help="Runs of your own to plan on.")
@click.option("--law", default="private", show_default=True, help="Law to fit to them.")
@click.option("--source", type=click.Choice(["measured", "published"]), help="Without points.")
@click.option("--card", default="A100 80GB", show_default=True, help="Card to count hours of.")
@click.option("--memory/--no-memory", default=True, help="Predict how many records fit (seconds).")
@JSON
def plan(
    target_epsilon: float,
    records: float | None,
    target_perplexity: float | None,
    compute: float | None,
    delta: float,
    record_tokens: int,
    points: str | None,
    law: str,
    source: str | None,
    card: str,
    memory: bool,
    as_json: bool,
) -> None:
    """Plan a run within a privacy budget: forward from compute, backward from a perplexity."""
    from workbench import scaling
    from workbench.scaling.files import read_points
    from workbench.scaling.written import plan_as_text

    if points is not None and source is not None:
        raise InputError("points and source were both given; plan on one of them.")
    planned_on: Any = source
    if points is not None:
        planned_on = scaling.fit(scaling.with_loss(read_points(points)), law)
    planned = scaling.plan(
        planned_on,
        target_epsilon=target_epsilon,
        records=records,
        delta=delta,
        compute=compute,
        target_perplexity=target_perplexity,
        record_tokens=record_tokens,
    ).certified()
    found = {kind: getattr(planned, kind) for kind in ("compute_optimal", "saturating", "target")}
    machines = {
        kind: scaling.hardware(each, card=card, memory=memory)
        for kind, each in found.items()
        if each is not None
    }
    if as_json:
        plans = {
            kind: {**found[kind].as_dict(), "hardware": asdict(each)}
            for kind, each in machines.items()
        }
        say({"source": planned.source, "status": planned.status, **plans})
        return
    for kind, each in machines.items():
        say(plan_as_text(found[kind], each))
    if planned.status:
        say(planned.status)


@click.command()
@click.option("--block", "blocks", multiple=True, metavar="NAME", help="Only this; repeatable.")
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="Dask scheduler or its scheduler file; without it, processes on this machine.",
)
@click.option("--hours", type=click.FloatRange(min=0), help="End after so long, to go on later.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes; one a core if not given.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Where rows are kept; data/measured/study of the checkout if not given.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("sweeps/study"),
    show_default=True,
    help="Where the runs themselves are kept.",
)
@click.option("--disturbed", is_flag=True, help="Say in the rows that the machine does other work.")
@click.option("--estimate", "only_estimate", is_flag=True, help="Say how long it takes, and end.")
def study(
    blocks: tuple[str, ...],
    scheduler: str | None,
    hours: float | None,
    workers: int | None,
    data: Path | None,
    out: Path,
    disturbed: bool,
    only_estimate: bool,
) -> None:
    """Measure what is missing of our scaling study; Ctrl-C leaves it to go on with.

    A run whose rows are there is not trained again. SIGTERM and SIGUSR1 do as Ctrl-C does.
    """
    from workbench.scaling.study import ORDER, Progress, estimate, run_study
    from workbench.sweeps.cluster import scheduler_at
    from workbench.terminal import interrupted_by_signals

    asked = blocks or ORDER
    if scheduler is not None:
        scheduler_at(scheduler)
    times = estimate(asked, data)
    for block, seconds in times.items():
        click.echo(f"Block {block}: about {seconds / 3600:.2g} hours of one core", err=True)
    for block in (name for name in asked if name not in times):
        click.echo(f"Block {block}: known once those before it are measured", err=True)
    if only_estimate:
        return

    def show(progress: Progress) -> None:
        click.echo(f"Block {progress.block}: {progress.measured} of {progress.runs}", err=True)

    with interrupted_by_signals():
        left = run_study(
            asked,
            data=data,
            out=out,
            scheduler=scheduler,
            workers=workers,
            hours=hours,
            disturbed=disturbed,
            on_progress=show,
        )
    missing = {block: left.get(block) for block in asked if left.get(block) != 0}
    told = ", ".join(f"{b} ({'all' if n is None else n})" for b, n in missing.items())
    say(f"Still to measure: {told}." if told else "Everything asked for is measured.")

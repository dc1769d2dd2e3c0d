"""`pipeline`: the commands, their flags, and what a mistake looks like."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from store.problem import Problem

app = typer.Typer(
    help="Temporal sparse autoencoders: harvest activations once, train variants from disk, evaluate, report.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
store_app = typer.Typer(help="Look into and check activation stores.", no_args_is_help=True)
app.add_typer(store_app, name="store")

ProfileFlag = Annotated[
    str | None, typer.Option("--profile", help="Profile for this command, instead of the current one.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DryRunFlag = Annotated[bool, typer.Option("--dry-run", help="Print the plan and do nothing.")]
StoreFlag = Annotated[Path | None, typer.Option("--store", help="Folder of the activation store.")]
ModelFlag = Annotated[
    str | None, typer.Option("--model", help="Hub id, local folder or GGUF file, instead of the profile's.")
]
INTERRUPTED = 130
"""Exit status that typer gives Ctrl-C, as shells expect."""


@app.command()
def harvest(
    profile: ProfileFlag = None,
    model: ModelFlag = None,
    layer: Annotated[list[int] | None, typer.Option("--layer", min=0, help="Layer, from 0; repeatable.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after this many positions.")] = None,
    store: StoreFlag = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes on this machine that share the work.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Address of a Dask scheduler whose workers do it.")] = None,
    dry_run: DryRunFlag = False,
) -> None:
    """Stage 1: run the language model once, keep its activations in token order."""
    from pipeline.harvest import run

    run(profile, model, layer or [], tokens, store, workers, scheduler, dry_run)


@app.command()
def train(
    profile: ProfileFlag = None,
    variant: Annotated[list[str] | None, typer.Option("--variant", help="Row of variants.yaml; repeatable.")] = None,
    store: StoreFlag = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps, instead of the profile's.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", min=0, help="Seed; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (one variant, one seed).")] = None,
    dry_run: DryRunFlag = False,
) -> None:
    """Stage 2: train sparse autoencoders from a store; no language model is loaded."""
    from pipeline.train import run

    run(profile, variant or [], store, steps, seed or [], out, dry_run)


@app.command()
def evaluate(
    runs: Annotated[list[Path] | None, typer.Argument(help="Folders of runs; all of params.yaml's if none.")] = None,
    profile: ProfileFlag = None,
    store: StoreFlag = None,
    model: ModelFlag = None,
) -> None:
    """Stage 3: SAEBench core metrics on heldout documents."""
    from pipeline.evaluate import run

    run(profile, runs or [], store, model)


@app.command()
def report(
    profile: ProfileFlag = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the page.")] = None,
) -> None:
    """Stage 4: tables and figures as one HTML page that opens offline."""
    from pipeline.report import run

    run(profile, out)


@app.command()
def variants(
    name: Annotated[str | None, typer.Argument(help="One row, explained.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """List the table of variants, or explain one."""
    from pipeline.variants import run

    run(name, profile, json)


@app.command()
def profiles(profile: ProfileFlag = None, json: JsonFlag = False) -> None:
    """List the profiles: model, hook point, corpus, sizes."""
    from pipeline.profiles import run

    run(profile, json)


@app.command()
def use(profile: Annotated[str, typer.Argument(help="Name of a profile.")]) -> None:
    """Make a profile the current one in params.yaml."""
    from pipeline.profiles import use

    use(profile)


@store_app.command("ls")
def store_ls(
    folder: Annotated[Path | None, typer.Argument(help="Where to look; data/stores if none.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """List the stores in a folder."""
    from pipeline.store import ls

    ls(folder, profile, json)


@store_app.command("info")
def store_info(
    folder: Annotated[Path | None, typer.Argument(help="A store; the profile's if none.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """What a store holds and where it came from."""
    from pipeline.store import info

    info(folder, profile, json)


@store_app.command("verify")
def store_verify(
    folder: Annotated[Path | None, typer.Argument(help="A store; the profile's if none.")] = None,
    profile: ProfileFlag = None,
    json: JsonFlag = False,
) -> None:
    """Check every byte of a store and list all that is wrong."""
    from pipeline.store import verify

    verify(folder, profile, json)


def main() -> None:
    """Run the command line; a `Problem` becomes one message and an exit status, never a traceback."""
    try:
        app()
    except Problem as problem:
        print(problem, file=sys.stderr)
        sys.exit(problem.exit_status)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("stopped; nothing is lost: the same command goes on where it stopped", file=sys.stderr)
        raise

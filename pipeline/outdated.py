"""A store that params.yaml does not describe any more."""

from __future__ import annotations

from pipeline.params import FILE, Profile
from pipeline.paths import Project
from store import ActivationStore
from store.progress import Progress

SHAPE = ("context", "packing", "heldout", "dtype")
"""Numbers of a harvest that its store records under their names."""


def note_if_outdated(opened: ActivationStore, profile: Profile, project: Project, progress: Progress) -> None:
    """Say where the profile's own store was made with other numbers than the profile has now. It is used all the same:
    the harvest that would replace it may take days."""
    if opened.path.resolve() != project.store(profile).resolve():
        return
    asked = {name: getattr(profile.harvest, name) for name in SHAPE} | {"tokens": profile.corpus.tokens}
    made = {**opened.request, "tokens": opened.request.get("corpus", {}).get("tokens")}
    differing = [f"{name} {made[name]} instead of {asked[name]}" for name in asked if made.get(name) != asked[name]]
    if differing:
        progress.note(
            f"{project.show(opened.path)} was made with {', '.join(differing)}, as {FILE} has it now: "
            "`pipeline harvest` makes it anew"
        )

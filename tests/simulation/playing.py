"""Plays seeds: each history alone, equal for an equal seed; a failing one says how to play it again."""

import logging
import random
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext

from tests.simulation import both, poller, sink
from tests.simulation.broken import BUILDS
from tests.simulation.surroundings import Surroundings, patched
from tests.simulation.virtual import VirtualLoop, run

MACHINES: dict[str, Callable[[Surroundings], Awaitable[None]]] = {"both": both.play, "poller": poller.play, "sink": sink.play}


def play_one(machine: str, seed: int, broken: str = "") -> tuple[str, list[str]]:
    """What broke (empty: nothing) and the story of one seed."""
    logging.disable(logging.CRITICAL)
    before = random.getstate()
    random.seed(seed)  # the jitter of retries is drawn from the global source
    loop = VirtualLoop()
    world = Surroundings(random.Random(seed), loop)

    async def history() -> None:
        await MACHINES[machine](world)

    try:
        with patched(world), BUILDS[broken].broken() if broken else nullcontext():
            run(history(), loop)
    except AssertionError as error:
        if world.bugs:
            return f"a bug ended an owner: {world.bugs[0]!r}\n{''.join(traceback.format_exception(world.bugs[0]))}", world.story
        return f"{type(error).__name__}: {error}", world.story
    except Exception as error:
        return f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}", world.story
    finally:
        random.setstate(before)
        logging.disable(logging.NOTSET)
    return "", world.story


def failures(machine: str, seeds: Iterable[int], broken: str = "", stop: int = 5, promise: str = "") -> dict[int, str]:
    """What broke, by seed; at most `stop` of them, and only those that broke a certain promise."""
    found: dict[int, str] = {}
    for seed in seeds:
        failure, _ = play_one(machine, seed, broken)
        if failure and promise in failure:
            found[seed] = failure
            if len(found) >= stop:
                break
    return found


def again(machine: str, seed: int, broken: str = "") -> str:
    """The command that plays one seed and prints its story."""
    what = f" --broken {broken!r}" if broken else ""
    return f"BUS_SIM_SEED={seed} python -m tests.simulation {machine}{what}"


def play_all(machine: str, seeds: range, broken: str = "", stop: int = 5) -> int:
    """Plays seeds and prints what failed. 0 when nothing did."""
    started = time.perf_counter()
    found = failures(machine, seeds, broken, stop)
    for seed, failure in found.items():
        sys.stdout.write(f"seed {seed}: {failure}\n    again: {again(machine, seed, broken)}\n")
    sys.stdout.write(f"{machine}: {len(seeds)} histories, {len(found)} failed, {time.perf_counter() - started:.1f} s\n")
    return 1 if found else 0


def play_broken(names: Iterable[str], seeds: range) -> int:
    """Plays each broken build until a seed catches it, and prints which. 0 when all were caught by the promise they break."""
    missed = 0
    for name in names:
        build = BUILDS[name]
        found = failures(build.machine, seeds, name, stop=1, promise=f"Broken: {build.caught_by}")
        missed += not found
        told = next((f"seed {seed}: {failure[:110]}" for seed, failure in found.items()), f"not within {len(seeds)} seeds")
        sys.stdout.write(f"{'caught' if found else 'MISSED'}  {build.machine}: {name}: {told}\n")
        sys.stdout.flush()
    return 1 if missed else 0

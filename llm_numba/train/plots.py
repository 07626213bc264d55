"""The plots: each brings a problem with a cause, attempts, help and a way out.

A plot is a function of the planner and the three main people. It only says what happens;
:mod:`~llm_numba.train.telling` says it in troubles.
"""

from __future__ import annotations

from collections.abc import Callable

from llm_numba.train import troubles
from llm_numba.train.entities import Person, Place
from llm_numba.train.planner import Planner
from llm_numba.train.troubles import GLAD, SAD

Plot = Callable[[Planner, Person, Person, Person], None]


def lost_and_found(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Something is lost, looked for in the wrong places, and found by somebody else."""
    p.open(hero)
    what = p.own(hero)
    p.befriend(hero, friend)
    p.paragraph()
    place = p.go(hero, friend, indoors=False)
    causes = troubles.LOSS_CAUSES["any"] + troubles.LOSS_CAUSES[what.sort] * 2
    p.emit("lose", who=hero, what=what, place=place, **p.because(causes, hero, what))
    p.feel(hero, SAD, f"{hero.he} lost {what.short}", "feel_sad")
    p.paragraph()
    spots = _search(p, hero, friend, place)
    finder = friend
    if p.maybe(0.7):
        finder = helper
        p.arrive(helper)
    p.emit("find", who=finder, what=what, spot=spots, place=place)
    p.emit("return", who=finder, whom=hero, what=what)
    p.paragraph()
    p.feel(hero, GLAD, f"{hero.he} got {what.short} back", "feel_glad")
    p.thank(hero, finder)
    p.emit("close_care", "close", who=hero, whom=finder, what=what)


def _search(p: Planner, hero: Person, friend: Person, place: Place) -> str:
    """Look in one or two wrong spots; return the right one."""
    count = 1 + p.maybe(0.6)
    *wrong, right = p.spots(place, count + 1)
    junk = p.rng.sample(troubles.JUNK, count)
    seekers = [hero, friend] if p.maybe(0.7) else [friend, hero]
    for index, spot in enumerate(wrong):
        p.emit(
            "search" if index == 0 else "search_on",
            "search",
            who=seekers[index],
            spot=spot,
            junk=junk[index],
        )
    return right


def broken_and_mended(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Something breaks, perhaps while it is lent; one tool fails and another mends it."""
    p.open(hero)
    what = p.own(hero, "cloth", "soft", "hard", "paper", "small", "light")
    p.befriend(hero, friend)
    p.paragraph()
    place = p.go(hero, friend, indoors=False)
    user = hero
    if p.maybe(0.4):
        user = friend
        cause = p.because(troubles.BORROW_CAUSES, friend, what)
        p.emit("lend", who=hero, whom=friend, what=what, **cause)
    p.emit(
        "break", who=user, what=what, place=place, **p.because(troubles.BREAK_CAUSES, user, what)
    )
    p.feel(user, SAD, f"{what.short} {what.broke}", "feel_sad")
    p.paragraph()
    tools = troubles.CLOTH_TOOLS if what.broke == "tore" else troubles.HARD_TOOLS
    wrong, right = p.rng.sample(tools, 2)
    p.emit("try", who=friend if user is hero else hero, what=what, tool=wrong)
    p.arrive(helper)
    p.emit("mend", who=helper, what=what, tool=right)
    if user is friend:
        p.emit("return", who=friend, whom=hero, what=what)
    p.paragraph()
    p.feel(hero, GLAD, f"{what.short} was mended", "feel_glad")
    p.thank(hero, helper)
    p.emit("close_use", "close", who=hero, whom=helper, what=what)


def hidden(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Something is hidden by a friend, for a reason, and comes to light."""
    p.open(hero)
    what = p.own(hero)
    other = p.befriend(hero, friend)
    p.paragraph()
    place = p.go(hero, friend)
    *wrong, right = p.spots(place, 2)
    p.emit(
        "hide",
        who=friend,
        whom=hero,
        owner=hero,
        what=what,
        spot=right,
        place=place,
        **p.because(troubles.HIDE_CAUSES, friend, what, whom=hero),
    )
    p.paragraph()
    p.emit("search", who=hero, spot=wrong[0], junk=p.pick(troubles.JUNK))
    p.feel(hero, SAD, f"{hero.he} could not find {what.short}", "feel_sad")
    if p.maybe(0.6):
        p.arrive(helper)
        p.emit("tell", who=helper, whom=hero, spot=right)
        p.emit("find_there", "find", who=hero, what=what, spot=right, place=place)
    else:
        p.emit("find_back", "find", who=friend, what=what, spot=right, place=place)
        p.emit("return", who=friend, whom=hero, what=what)
    p.paragraph()
    p.emit("sorry", who=friend, whom=hero)
    if p.maybe(0.4):
        p.emit("give_sorry", "give", who=friend, whom=hero, what=other)
    p.feel(friend, GLAD, f"{hero} was not angry", "feel_relief", whom=hero)
    p.emit("close_friends", "close", who=hero, whom=friend, what=what)


def traded(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Two friends trade; one of the things may then go to somebody who needs it more."""
    p.open(hero)
    what = p.own(hero)
    other = p.befriend(hero, friend)
    p.paragraph()
    p.go(hero, friend)
    p.emit("want", who=hero, what=other, **p.because(troubles.WANT_CAUSES, hero, other))
    p.emit("want", who=friend, what=what, **p.because(troubles.WANT_CAUSES, friend, what))
    p.emit("trade", who=hero, whom=friend, what=what, what2=other)
    p.feel(friend, GLAD, f"{friend.he} got {what.short}", "feel_glad")
    p.paragraph()
    if p.maybe(0.7):
        p.arrive(helper)
        giver, gift = p.pick(((hero, other), (friend, what)))
        p.emit(
            "give_need",
            "give",
            who=giver,
            whom=helper,
            what=gift,
            **p.because(troubles.GIFT_CAUSES, giver, gift, whom=helper),
        )
        p.feel(helper, GLAD, f"{helper.he} got {gift.short}", "feel_glad")
    else:
        p.emit("miss", who=hero, what=what)
        p.feel(hero, SAD, f"{hero.he} missed {what.short}", "feel_sad")
        p.emit("return", who=friend, whom=hero, what=what)
    p.emit("close_share", "close", who=hero, whom=friend, what=what)


def lent(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Something is lent, and lent on, and comes home by one way or another."""
    p.open(hero)
    what = p.own(hero)
    p.befriend(hero, friend)
    p.paragraph()
    p.go(hero, friend)
    p.emit(
        "lend", who=hero, whom=friend, what=what, **p.because(troubles.BORROW_CAUSES, friend, what)
    )
    p.emit("promise", who=friend, whom=hero, what=what)
    p.paragraph()
    last = friend
    if p.maybe(0.6):
        last = helper
        p.arrive(helper, carrying=0.3)
        p.emit(
            "lend_on",
            "lend",
            who=friend,
            whom=helper,
            what=what,
            **p.because(troubles.BORROW_CAUSES, helper, what),
        )
    p.emit("wait", who=hero, what=what)
    p.feel(hero, SAD, f"{hero.he} waited for {what.short}", "feel_sad")
    p.paragraph()
    if p.maybe(0.65):
        p.emit("return_late", "return", who=last, whom=hero, what=what)
        p.feel(hero, GLAD, f"{hero.he} got {what.short} back", "feel_glad")
    else:
        p.emit(
            "keep",
            who=hero,
            whom=last,
            what=what,
            **p.because(troubles.GIFT_CAUSES, hero, what, whom=last),
        )
        p.feel(last, GLAD, f"{last.he} could keep {what.short}", "feel_glad")
    p.emit("close_share", "close", who=hero, whom=last, what=what)


def rescue(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Somebody small is stuck; the hero tries, help comes with a tool, and it gets a name."""
    p.open(hero)
    p.befriend(hero, friend)
    p.paragraph()
    place = p.go(hero, friend, indoors=False)
    animal = p.animal()
    p.emit("hear", who=hero, what=animal)
    p.emit(
        "stuck",
        what=animal,
        trap=p.pick(troubles.TRAPS),
        place=place,
        **p.because(troubles.TRAP_CAUSES, hero, animal),
    )
    p.feel(hero, SAD, f"{hero.he} saw {animal.short}", "feel_sad")
    p.paragraph()
    p.emit("reach", who=hero, what=animal, **p.because(troubles.CLIMB_TROUBLES, hero, animal))
    p.emit("fetch", who=friend, place=p.place())
    p.arrive(helper, carrying=0.4)
    p.emit("rescue", who=helper, what=animal, tool=p.pick(troubles.RESCUE_TOOLS))
    p.paragraph()
    owner = p.pick((hero, friend, helper))
    if owner is not helper:
        p.emit("give_pet", "give", who=helper, whom=owner, what=animal)
    p.emit("name", who=owner, what=animal, pet=p.pick(troubles.PET_NAMES))
    p.feel(owner, GLAD, f"{owner.he} could keep {animal.short}", "feel_glad")
    p.emit("close_pet", "close", who=owner, what=animal)


def baking(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Somebody deserves a treat; something is missing from the kitchen; a neighbour has it."""
    p.open(hero)
    what = p.own(hero)
    other = p.befriend(hero, friend)
    p.paragraph()
    food, missing = p.pick(troubles.FOODS), p.pick(troubles.INGREDIENTS)
    p.emit(
        "bake_plan",
        who=hero,
        whom=friend,
        food=food,
        **p.because(troubles.CARE_CAUSES, hero, whom=friend),
    )
    p.emit(
        "short", who=hero, missing=missing, **p.because(troubles.SHORTAGES, hero, f"the {missing}")
    )
    p.feel(hero, SAD, f"there was no {missing}", "feel_sad")
    place = p.place()
    intro = p.introduce(helper)
    p.emit("meet", who=hero, whom=helper, intro=intro, place=place)
    p.emit("provide", who=helper, whom=hero, missing=missing)
    p.paragraph()
    p.emit("bake", who=hero, whom=friend, food=food)
    p.feel(friend, GLAD, f"{friend.he} tasted the food", "feel_glad")
    if p.maybe(0.4):
        p.emit("give_back", "give", who=friend, whom=hero, what=other)
    p.emit("close_food", "close", who=hero, whom=helper, what=what)


def errand(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Something must be brought to somebody, and the way is barred."""
    p.open(hero)
    p.own(hero)
    what = p.thing()
    intro = p.introduce(helper)
    p.paragraph()
    p.emit("sender", "has", who=helper, intro=intro, what=what)
    place = p.place()
    p.emit("entrust", "give", who=helper, whom=hero, what=what)
    intro = p.introduce(friend)
    p.emit(
        "errand",
        who=helper,
        whom=friend,
        hero=hero,
        intro=intro,
        what=what,
        place=place,
        **p.because(troubles.ERRAND_CAUSES, helper, what, whom=friend),
    )
    p.emit("set_out", who=hero, what=what)
    p.paragraph()
    p.emit("barred", who=hero, **p.because(troubles.OBSTACLES, hero))
    p.feel(hero, SAD, f"{hero.he} could not go on", "feel_sad")
    guide = p.stranger(grown_up=0.3)
    if guide is helper:
        guide = p.child()
        p.cast.append(guide)
    p.arrive(guide, carrying=0.4)
    p.emit("guide", who=guide, whom=hero, place=p.place())
    p.paragraph()
    p.emit("deliver", who=hero, whom=friend, what=what, place=place)
    p.feel(friend, GLAD, f"{friend.he} got {what.short}", "feel_glad")
    p.thank(friend, hero)
    p.emit("close_brave", "close", who=hero, whom=guide, what=what)


def storm(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Bad weather spoils a day out; a door opens, and something warm is lent."""
    p.open(hero)
    p.own(hero)
    p.befriend(hero, friend)
    p.paragraph()
    p.go(hero, friend, indoors=False)
    p.emit("pastime", who=hero, whom=friend, pastime=p.pick(troubles.PASTIMES))
    shelter = p.place(indoors=True)
    p.emit("shelter", who=hero, whom=friend, place=shelter, **p.because(troubles.STORMS, hero))
    p.feel(friend, SAD, "the day was spoiled", "feel_sad")
    p.paragraph()
    intro = p.introduce(helper)
    p.emit("host", who=helper, whom=hero, intro=intro, food=p.pick(troubles.WARMERS))
    what = p.thing("cloth")
    p.emit("has_dry", "has", who=helper, what=what)
    cold = p.pick((hero, friend))
    p.emit(
        "lend_dry",
        "lend",
        who=helper,
        whom=cold,
        what=what,
        **p.because(troubles.COLD_CAUSES, cold),
    )
    p.feel(cold, GLAD, f"{cold.he} had {what.short}", "feel_glad")
    p.paragraph()
    if p.maybe(0.6):
        p.emit("return_next", "return", who=cold, whom=helper, what=what)
    else:
        p.emit("keep_dry", "keep", who=helper, whom=cold, what=what)
    p.emit("close_sky", "close", who=hero, whom=friend)


def building(p: Planner, hero: Person, friend: Person, helper: Person) -> None:
    """Two friends build something; it falls down; the right material saves it."""
    p.open(hero)
    what = p.own(hero)
    p.befriend(hero, friend)
    p.paragraph()
    thing = p.pick(troubles.BUILDINGS)
    p.emit(
        "build_plan",
        who=hero,
        whom=friend,
        building=thing,
        place=p.place(indoors=False),
        **p.because(troubles.BUILD_CAUSES, hero, helper=helper),
    )
    p.emit("collapse", who=hero, whom=friend, building=thing, **p.because(troubles.COLLAPSES, hero))
    p.feel(friend, SAD, "it fell down", "feel_sad")
    p.paragraph()
    intro = p.introduce(helper)
    p.emit("supply", who=helper, whom=hero, intro=intro, material=p.pick(troubles.MATERIALS))
    p.emit("built", who=hero, whom=friend, building=thing)
    p.feel(hero, GLAD, "it was ready", "feel_glad")
    if p.maybe(0.4):
        p.emit("give_last", "give", who=hero, whom=helper, what=what)
    else:
        p.emit("thank", who=hero, whom=helper)
    p.emit("close_built", "close", who=hero, whom=friend)


PLOTS: dict[str, Plot] = {
    plot.__name__: plot
    for plot in (
        lost_and_found,
        broken_and_mended,
        hidden,
        traded,
        lent,
        rescue,
        baking,
        errand,
        storm,
        building,
    )
}

"""The best offer of all nodes, without asking all of them.

Nodes that nothing but their room sets apart are looked at in groups of equal engines, the emptiest first, until none
can do better; nodes that run the replica already or refused something are asked one by one. The answer is the one
that asking every node would give, to the byte, reasons included.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from skulk.core.domain import EngineBuild, NodeName, Reason, Spread
from skulk.core.memory import (
    CONTEXT_STEP_TOKENS,
    CONTEXT_UNKNOWN_TOKENS,
    CONTEXT_USEFUL_TOKENS_MIN,
    card_context_limit,
    footprint,
    kv_cache_of,
)
from skulk.core.planner.eligibility import BEFORE_NAMES, Rejection, Wanted, backend_rank, summarise
from skulk.core.planner.offers import Offer, Offers, Refusals, Releasing, nothing
from skulk.core.planner.room import Entry, pool_of
from skulk.core.planner.survey import Site, Survey

SELECTED_FEW_MAX = 16
"""So few nodes with the selector's labels are asked one by one; more are found faster by how empty they are."""


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a replica needs of one backend, worked out once per deployment. Bytes."""

    least: int
    """Below this much free, there is no offer."""
    full: int
    """From this much free on, every node offers the same context, so that more free is more left."""
    remainder: int
    """Between the two, an offer takes what is free for context and leaves less than this."""


@dataclass(slots=True)
class _Best:
    """The best offer so far. Of equal ones the site with the lowest index wins."""

    offer: Offer | None = None
    key: tuple[object, ...] = ()

    def take(self, offer: Offer, key: tuple[object, ...]) -> None:
        if self.offer is None or key < self.key:
            self.offer, self.key = offer, key

    def beats(self, rank: tuple[int, bool]) -> bool:
        """Whether nothing of this backend rank can be better."""
        return self.offer is not None and self.key[0] < rank  # type: ignore[operator]  # the rank is what stands there


class Market(Offers):
    """The nodes' answers to one deployment, and the best of them."""

    def __init__(self, wanted: Wanted, survey: Survey, refusals: Refusals) -> None:
        super().__init__(wanted, survey, refusals)
        self._own: dict[int, set[NodeName]] = {}
        self._crowd: dict[NodeName, int] = {}
        self._present_most = max(self._present.values(), default=0)
        self._needs: dict[str, _Needs] = {}
        self._of_group: dict[int, tuple[EngineBuild, ...]] = {}
        self._barred: list[Reason | EngineBuild] = []
        self._nobody_at: tuple[int, tuple[Reason, str]] | None = None

    def occupy(self, name: NodeName, replica: int) -> None:
        """Note that a replica of this deployment is, or will be, on that node."""
        super().occupy(name, replica)
        self._own.setdefault(replica, set()).add(name)
        self._crowd[name] = len(self._occupied[name])
        self._nobody_at = None

    def best(self, replica: int, releasing: Releasing = nothing) -> Offer | tuple[Reason, str]:
        """The best offer of all nodes, or the one-line reason that there is none."""
        best = _Best()
        few = self._selected_few()
        special = self._special(replica)
        for site in few if few is not None else special:
            found = self.offer(site, replica, releasing(site))
            if isinstance(found, Offer):
                best.take(found, self.key(found, replica))
        if few is None and not self._beyond_card():
            for group in range(len(self._survey.groups)):
                self._search(group, replica, best)
        if best.offer is not None:
            return best.offer
        return self._nobody(replica, releasing, special)

    def could_later(self, replica: int) -> bool:
        """Whether some node could take it when what is on its way out is gone: not to place, but to know whether to
        wait."""
        return any(isinstance(self.offer(site, replica, optimistic=True), Offer) for site in self._survey.sites)

    # --- the search over nodes that nothing but their room sets apart ---------------------------------------

    def _special(self, replica: int) -> list[Site]:
        """Sites that must be asked one by one: they run this very replica, whose room may be released, or refused
        something of this deployment."""
        names = self._own.get(replica, set()) | self._refused
        return [site for name in names if (site := self._survey.by_name.get(name)) is not None]

    def _selected_few(self) -> list[Site] | None:
        """The only sites that the selector allows, when they are few."""
        for key, value in self.wanted.deployment.selector.items():
            indices = self._survey.labelled(key, value)
            if len(indices) <= SELECTED_FEW_MAX:
                return [self._survey.sites[index] for index in indices]
        return None

    def _beyond_card(self) -> bool:
        asked, limit = self.wanted.deployment.context_tokens, card_context_limit(self.wanted.card)
        return asked is not None and limit is not None and asked > limit

    def _search(self, group: int, replica: int, best: _Best) -> None:
        """Improve `best` with the sites of one group: for each build, those where no earlier one works."""
        for build in self._builds(group):
            rank = backend_rank(self.wanted.card, build.backend)
            # Builds come in order of preference.
            if best.beats(rank):
                return
            self._walk(build, self._needs_of(build), self._survey.by_free(group, build), replica, best)

    def _walk(self, build: EngineBuild, needs: _Needs, order: Sequence[Entry], replica: int, best: _Best) -> None:
        """Improve `best` with the sites on which `build` is the first that works, the emptiest first.

        Of those with as much of the files and as many other replicas, the first has the most left, as long as all
        offer the same context.
        """
        sites, ideal = self._survey.sites, (-self._present_most, self._crowd_least())
        reached, left = (1, 0), -1
        position = 0
        while position < len(order):
            used_up, index = order[position]
            position += 1
            if -used_up < needs.least:
                return
            same = -used_up >= needs.full
            if reached == ideal:
                # Only one that is filled to the brim could have more left.
                if needs.full == needs.least or left >= needs.remainder:
                    return
                if same:
                    position = bisect_right(order, (-needs.full, len(sites)))
                    continue
            site = sites[index]
            merit = (-self._present.get(index, 0), self._crowd.get(site.name, 0))
            if merit > reached or (merit == reached and (same or left >= needs.remainder)):
                continue
            found = self._ordinary(site, build, replica)
            if found is not None:
                best.take(found, self.key(found, replica))
                left = found.left_bytes if merit < reached else max(left, found.left_bytes)
                reached = merit

    def _crowd_least(self) -> int:
        """No site has fewer other replicas than this."""
        return 0 if len(self._crowd) < len(self._survey.sites) else min(self._crowd.values(), default=0)

    def _ordinary(self, site: Site, build: EngineBuild, replica: int) -> Offer | None:
        """The offer of a site that is not special, if it is one of this build."""
        if site.name in self._refused or replica in self._occupied.get(site.name, ()):
            return None
        found = self.offer(site, replica)
        return found if isinstance(found, Offer) and found.build == build else None

    def _builds(self, group: int) -> tuple[EngineBuild, ...]:
        """The builds that sites of a group can have for the card, the preferred one first."""
        found = self._of_group.get(group)
        if found is None:
            site = self._survey.groups[group][0]
            able = self._eligibility.engines(site)
            barred = any(rule(self.wanted, site) is not None for rule in BEFORE_NAMES)
            found = self._of_group[group] = () if barred or isinstance(able, Rejection) else able
        return found

    def _needs_of(self, build: EngineBuild) -> _Needs:
        found = self._needs.get(build.backend)
        if found is None:
            card, deployment = self.wanted.card, self.wanted.deployment

            def total(tokens: int) -> int:
                return footprint(
                    card, build.backend, tokens, deployment.concurrency, kv_cache_of(deployment)
                ).total_bytes

            if deployment.context_tokens is not None:
                exact = total(deployment.context_tokens)
                found = _Needs(exact, exact, 0)
            else:
                ceiling = card_context_limit(card) or CONTEXT_UNKNOWN_TOKENS
                # KV grows fastest from the first token on (a window only flattens it), so that no step of the
                # context costs more than the first.
                step = total(CONTEXT_STEP_TOKENS + 1) - total(0)
                found = _Needs(total(min(CONTEXT_USEFUL_TOKENS_MIN, ceiling)), total(ceiling), step)
            self._needs[build.backend] = found
        return found

    # --- why there is no offer ------------------------------------------------------------------------------

    def _nobody(self, replica: int, releasing: Releasing, special: Sequence[Site]) -> tuple[Reason, str]:
        """One line for all nodes. Only the few that are shown work out their arithmetic."""
        sites, changes = self._survey.sites, self._survey.room.changes
        if not special and self._nobody_at is not None and self._nobody_at[0] == changes:
            return self._nobody_at[1]

        def rejection(site: Site) -> Rejection:
            found = self.offer(site, replica, releasing(site))
            assert isinstance(found, Rejection), "a search that found nothing has overlooked an offer"
            return found

        asked = {site.name for site in special}
        plain = self._reasons()
        reasons = [
            (site.name, rejection(site).reason if site.name in asked else plain(site) or rejection(site).reason)
            for site in sites
        ]
        words = " or ".join(self.wanted.card.compatible_backends)
        found = summarise(reasons, lambda position: rejection(sites[position]).message, words)
        if not special:
            self._nobody_at = (changes, found)
        return found

    def _reasons(self) -> Callable[[Site], Reason | None]:
        """Why a site does not offer, as far as that can be told without its arithmetic; None when it cannot."""
        if not self._barred:
            verdicts = (self._eligibility.builds(site) for site in self._survey.sites)
            self._barred = [v.reason if isinstance(v, Rejection) else v[0] for v in verdicts]
        barred, survey, deployment = self._barred, self._survey, self.wanted.deployment
        beyond, open_context = self._beyond_card(), deployment.context_tokens is None
        separate = deployment.spread is Spread.NODE
        shortest = {
            backend: self._shortest(backend) for backend in {b.backend for b in barred if isinstance(b, EngineBuild)}
        }

        def reason(site: Site) -> Reason | None:
            first = barred[site.index]
            if isinstance(first, Reason):
                return first
            if separate and site.name in self._occupied:
                return None
            if beyond:
                return Reason.CONTEXT_TOO_LARGE
            if open_context:
                return Reason.INSUFFICIENT_MEMORY
            free = survey.usable_bytes(site, first) - survey.room.used_bytes(site.name, pool_of(first))
            return Reason.CONTEXT_TOO_LARGE if free >= shortest[first.backend] else Reason.INSUFFICIENT_MEMORY

        return reason

    def _shortest(self, backend: str) -> int:
        """Bytes with the least context that is of any use."""
        card, deployment = self.wanted.card, self.wanted.deployment
        least = min(CONTEXT_USEFUL_TOKENS_MIN, card_context_limit(card) or CONTEXT_UNKNOWN_TOKENS)
        return footprint(card, backend, least, deployment.concurrency, kv_cache_of(deployment)).total_bytes

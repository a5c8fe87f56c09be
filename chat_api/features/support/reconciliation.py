"""
Who is really there: what the notices have told, held against what the realtime server says.

A server that is killed tells of nobody who left with it, and a notice that nobody takes is given up
in the end. So those who were seen to join are looked for: some of them now and then, all of them
when the server has been away. Who is not there although nobody told, and is still not there after
as long as somebody has to be gone, has left when it was first seen; who is there although they were
told to have left, is back.

Only what the server says counts. While it is away, has an error or is cut off from its own nodes,
nothing is known, and nothing changes.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta

import structlog

from chat_api.features.support.attendance import Attendance, Sighting
from chat_api.kernel.clock import Clock
from chat_api.kernel.rounds import Rounds
from chat_api.realtime.reverb import Refused, ReverbClient, Unavailable

__all__ = ["INTERVAL", "Reconciliation"]

_log = structlog.get_logger("chat_api.support")

INTERVAL = 60.0
"""Seconds between two looks."""

_AT_ONCE = 200  # customers in one look, each of them one request
_PAUSE = 5.0  # seconds before trying again when the server is away, or the database fails
_LOOKED_FOR = timedelta(hours=1)  # after a departure; a notice of a return is hardly lost for good


class Reconciliation:
    """
    Looks for the customers of one store on one realtime server, one request at a time.

    `leads` tells whether it is for this process to look; several would find the same. `hold` is for
    how many seconds somebody has to be gone, more than those that the server waits whether they
    come back; `return_of_clients` how many clients get after the server was away. Every `interval`
    seconds it looks for up to `at_once` customers, and goes on at once if it has missed one.
    """

    def __init__(
        self,
        attendance: Attendance,
        reverb: ReverbClient,
        clock: Clock,
        *,
        leads: Callable[[], bool],
        hold: float,
        return_of_clients: float,
        interval: float = INTERVAL,
        at_once: int = _AT_ONCE,
    ) -> None:
        self._attendance = attendance
        self._reverb = reverb
        self._clock = clock
        self._leads = leads
        self._hold = hold
        self._return_of_clients = return_of_clients
        self._interval = interval
        self._at_once = at_once
        self._after = ""
        self._looks_for_all = False
        self._has_to_begin_anew = False
        self._not_before = 0.0
        self._was_away = False
        self._rounds = Rounds("reconciliation", self.look, pause=_PAUSE)

    def look_for_all(self) -> None:
        """Look for everybody, once clients have had the time to come back."""
        self._after = ""
        self._looks_for_all = self._has_to_begin_anew = True
        self._was_away = False
        self._not_before = _now() + self._return_of_clients
        self._rounds.wake()

    async def look(self) -> float:
        """
        Look for the next customers, and return in how many seconds to look again.

        Raises:
            chat_api.kernel.errors.Unavailable: The database is; what was found out is lost, and
                found out by the next look.
        """
        if not self._leads():
            return self._interval
        if self._was_away:
            if not await self._reverb.is_ready():
                return _PAUSE
            self.look_for_all()
        if (wait := self._not_before - _now()) > 0:
            return wait
        self._has_to_begin_anew = False
        sightings = await self._attendance.seen(after=self._after, limit=self._at_once)
        try:
            has_missed = await self._look_for(sightings)
        except Unavailable as error:
            _log.debug("The realtime server does not say who is there", reason=str(error))
            self._was_away |= error.is_away
            return _PAUSE if error.is_away else self._interval
        if self._has_to_begin_anew:
            return 0.0
        if len(sightings) < self._at_once:
            self._after, self._looks_for_all = "", False
            return self._interval
        self._after = sightings[-1].id
        return 0.0 if has_missed or self._looks_for_all else self._interval

    def running(self) -> AbstractAsyncContextManager[None]:
        """Look while the block runs, for everybody at first."""
        self.look_for_all()
        return self._rounds.running()

    async def _look_for(self, sightings: Sequence[Sighting]) -> bool:
        """Look for these, note what has changed, and tell whether anybody was missed."""
        looked_at = self._clock()
        there, absent = await self._look_at(sightings)
        missed = [sighting for sighting in absent if sighting.left_at is None]
        if missed:
            # Who comes back soon enough has never been away, and nobody tells of it.
            await asyncio.sleep(self._hold)
            _, missed = await self._look_at(missed)
        if self._has_to_begin_anew:
            return False  # the server lost its clients meanwhile
        back = [sighting for sighting in there if sighting.left_at is not None]
        forgotten = [sighting for sighting in absent if _is_long_gone(sighting, looked_at)]
        if back or missed or forgotten:
            await self._attendance.correct(
                back=back, gone=missed, forgotten=forgotten, left_at=looked_at
            )
        if missed:
            _log.info("Customers have left of whom nobody told", customers=len(missed))
        return bool(missed)

    async def _look_at(
        self, sightings: Sequence[Sighting]
    ) -> tuple[list[Sighting], list[Sighting]]:
        """
        Return those who are there, and those who are not.

        Raises:
            Unavailable: The server does not say, or can't know.
        """
        there: list[Sighting] = []
        absent: list[Sighting] = []
        for sighting in sightings:
            try:
                is_there = sighting.member in await self._members(sighting.channel)
            except Refused:
                continue
            (there if is_there else absent).append(sighting)
        if absent and not await self._reverb.is_ready():
            raise Unavailable("it does not know what all of its nodes know")
        return there, absent

    async def _members(self, channel: str) -> set[str]:
        while True:
            try:
                return await self._reverb.members(channel)
            except Unavailable as error:
                if error.is_away or not error.retry_after:
                    raise
                await asyncio.sleep(error.retry_after)


def _is_long_gone(sighting: Sighting, now: datetime) -> bool:
    return sighting.left_at is not None and now - sighting.left_at > _LOOKED_FOR


def _now() -> float:
    return asyncio.get_running_loop().time()

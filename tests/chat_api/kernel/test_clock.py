"""How times are written on the wire."""

from datetime import UTC, datetime

from chat_api.kernel.clock import precise_wire_time, wire_time


def test_times_are_written_in_utc_in_seconds_or_milliseconds() -> None:
    moment = datetime(2025, 11, 13, 11, 36, 3, 351_999, tzinfo=UTC)

    assert wire_time(moment) == "2025-11-13T11:36:03Z"
    assert precise_wire_time(moment) == "2025-11-13T11:36:03.351Z"
    assert precise_wire_time(moment.replace(microsecond=4_000)) == "2025-11-13T11:36:03.004Z"

"""The devices of whoever asks, over HTTP, and what the feature is made of."""

from typing import Annotated

import msgspec

from chat_api.features import Feature
from chat_api.features.notifications.models import MAX_TOKEN
from chat_api.features.notifications.service import PLATFORMS, Devices, DeviceView
from chat_api.kernel.errors import NotFound, Unprocessable
from chat_api.kernel.measures import Measure
from chat_api.kernel.routes import Answer, Call, Example, NoInput, Route, stated
from chat_api.store.engine import Store

__all__ = ["notifications_feature"]


class DeviceInput(msgspec.Struct, frozen=True):
    """A device to notify."""

    token: Annotated[
        str,
        stated(
            "The registration token that Firebase gave the app.",
            minLength=1,
            maxLength=MAX_TOKEN,
            pattern="^[!-~]+$",
        ),
    ]
    platform: Annotated[str | None, stated(enum=[*PLATFORMS, None])] = None


class DeviceList(msgspec.Struct, frozen=True):
    """The caller's devices."""

    devices: Annotated[list[DeviceView], stated("Those heard of last come first.")]


def notifications_feature(
    store: Store, devices: Devices, measures: tuple[Measure, ...] = ()
) -> Feature:
    """Return the routes of devices; `measures` are those of the delivery, where there is one."""

    async def register(call: Call[DeviceInput]) -> Answer:
        """
        To be called at each start of the app and whenever Firebase gives it another token.

        A device that was another account's is the caller's from now on.
        """
        user_id, given = call.caller.id, call.input
        device, is_new = await store.write(
            lambda unit: devices.register(unit, user_id, given.token, given.platform)
        )
        return Answer(device, 201 if is_new else 200)

    async def show(call: Call[NoInput]) -> Answer:
        return Answer(DeviceList(await devices.of(call.caller.id)))

    async def forget(call: Call[NoInput]) -> Answer:
        """Logging out does not do this: who wants silence from then on asks for it before."""
        await devices.forget(call.caller.id, call.path_id("device_id", "device"))
        return Answer(None, 204)

    return Feature(
        (
            Route(
                "POST",
                "/api/devices",
                DeviceInput,
                register,
                summary="Have a device notified",
                answers={201: DeviceView, 200: DeviceView},
                errors=(Unprocessable,),
                examples=(
                    Example(
                        {"token": "fcm-token-of-alis-phone:APA91b", "platform": "android"},
                        keeps={"device": "id"},
                    ),
                ),
            ),
            Route(
                "GET",
                "/api/devices",
                NoInput,
                show,
                summary="Show one's devices",
                answers={200: DeviceList},
                examples=(Example(),),
            ),
            Route(
                "DELETE",
                "/api/devices/{device_id}",
                NoInput,
                forget,
                summary="Have a device notified no more",
                answers={204: None},
                errors=(NotFound,),
                examples=(Example(path={"device_id": "{device}"}),),
            ),
        ),
        measures=measures,
        name="notifications",
        description=(
            "Devices that push notifications go to, over Firebase Cloud Messaging. Where the "
            "deployment has no credentials for it, devices are kept and nothing is sent."
        ),
    )

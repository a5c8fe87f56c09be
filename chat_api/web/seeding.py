"""`POST /api/admin/seed`: the demo data of every feature, for trying things out."""

from collections.abc import Iterable
from typing import Any

from chat_api.features import Feature
from chat_api.kernel.routes import Answer, Audience, Call, Example, NoInput, Route

__all__ = ["seed_everything", "seed_route"]


async def seed_everything(features: Iterable[Feature]) -> dict[str, Any]:
    """Make what is missing of the features' demo data, in their order; return what there is."""
    seeded: dict[str, Any] = {}
    for feature in features:
        if feature.seed is not None:
            seeded.update(await feature.seed())
    return seeded


def seed_route(features: Iterable[Feature]) -> Route[NoInput]:
    """Return the route, which belongs only where demo accounts may be."""

    async def seed(call: Call[NoInput]) -> Answer:
        """Answers what there is of it afterwards, by what it is: `users`, `wallets` and so on."""
        made = await seed_everything(features)
        for feature in features:
            if feature.populate is not None:
                made.update(await feature.populate())
        return Answer(made)

    return Route(
        "POST",
        "/api/admin/seed",
        NoInput,
        seed,
        Audience.ANYONE,
        summary="Make what is missing of the demo data",
        answers={200: dict[str, list[Any]]},
        examples=(Example(),),
    )

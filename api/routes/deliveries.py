"""Webhook deliveries: look at one, send it again."""

from __future__ import annotations

from typing import cast

from apiflask import APIBlueprint
from flask import request

from api.openapi import operation
from api.request import Request
from api.services import services
from jobs.errors import DeliveryNotFound, IdempotencyKeyReused, IllegalMove
from jobs.objects import Delivery

blueprint = APIBlueprint("deliveries", __name__, url_prefix="/v1/deliveries", tag="Webhooks")


@blueprint.get("/<delivery_id>")
@operation(DeliveryNotFound)
@blueprint.output(Delivery)
def get_delivery(delivery_id: str) -> Delivery:
    """Look at a webhook and every try to bring it."""
    return Delivery.of(services().record.deliveries.get(delivery_id))


@blueprint.post("/<delivery_id>/replay")
@operation(DeliveryNotFound, IdempotencyKeyReused, IllegalMove)
@blueprint.output(Delivery, 202, description="Queued.")
def replay_delivery(delivery_id: str) -> tuple[Delivery, int, dict[str, str]]:
    """Send a webhook again, under the same message id."""
    key = cast(Request, request).key()
    delivery = Delivery.of(services().record.deliveries.replay(delivery_id, key=key))
    return delivery, 202, {"Location": delivery.links["self"]}

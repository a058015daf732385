"""What load balancers and service managers ask."""

from flask import Blueprint, Response, jsonify

from webapp.services.health import check_health
from webapp.web.gate import public

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@public
def live() -> Response:
    """200 while the process lives."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
@public
def ready() -> tuple[Response, int]:
    """200 while requests can be served, 503 with the problems otherwise."""
    health = check_health()
    body: dict[str, object] = {"status": health.status}
    if health.problems:
        body |= {"problems": list(health.problems), "detail": health.detail}
    elif health.queue != "ok":
        body["detail"] = {"queue": [f"redis is {health.queue}; jobs wait in the database"]}
    return jsonify(body), 503 if health.problems else 200

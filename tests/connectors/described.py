"""Requests of ours held against a vendor's own description of its API, read where it lies; nothing of it is copied."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import httpx
import yaml
from openapi_core import Config, OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest

from connectors.http import Request
from tests.connectors.published import published

Correction = Callable[[dict[str, Any]], None]


class Described:
    """`correct` mends the description where it contradicts its own examples or what a real account needs; it says which and why."""

    def __init__(self, vendor: str, file: str, correct: Correction = lambda description: None) -> None:
        self.vendor, self.file, self.correct = vendor, file, correct

    @cached_property
    def api(self) -> OpenAPI:
        text = published(self.vendor, "spec", self.file).decode().replace("\t", "  ")  # a tab is no YAML, and two files have one
        description: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
        description.get("components", {}).pop("securitySchemes", None)  # tokens are added later, by the login
        description.pop("security", None)
        for path in description["paths"].values():
            for operation in path.values():
                if isinstance(operation, dict):
                    operation.pop("security", None)
        self.correct(description)
        return OpenAPI.from_dict(description, config=Config(spec_validator_cls=None))

    def faults(self, request: Request, *headers: tuple[str, str]) -> str:
        """What the description finds wrong with a request; "" for nothing."""
        url = httpx.URL(request.url)
        given = dict((*request.headers, *headers))
        asked = MockRequest(
            f"{url.scheme}://{url.host}",
            request.method.lower(),
            url.path,
            args=dict(url.params),
            headers=given,
            data=request.body or None,
            content_type=given.get("Content-Type", "application/json"),
        )
        try:
            self.api.validate_request(asked)
        except OpenAPIError as error:
            cause = error.__cause__
            return "; ".join([repr(error), *(str(e.message) for e in getattr(cause, "schema_errors", ()))])
        return ""

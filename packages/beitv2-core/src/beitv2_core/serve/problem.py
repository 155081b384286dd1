# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with a request, as the JSON every error answer has."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """One error, in words for the person who sent the request."""

    where: str = Field(description="the part of the request, or of the server, that is meant")
    what: str = Field(description="what came, or what happened")
    expected: str = Field(description="what would have been right")
    do: str = Field(description="what to do about it")


class ErrorAnswer(BaseModel):
    """Every answer with a status of 400 or above."""

    error: ErrorDetail


class Problem(Exception):
    """A request that gets an error answer; `status` is the HTTP status."""

    def __init__(self, status: int, where: str, what: str, expected: str, do: str) -> None:
        super().__init__(f"{where}: {what} {expected} {do}")
        self.status = status
        self.answer = ErrorAnswer(error=ErrorDetail(where=where, what=what, expected=expected, do=do))

# SPDX-License-Identifier: Apache-2.0
"""Errors of a request, as the JSON body of every error answer."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ErrorDetail(BaseModel):
    """One error, described for the person who sent the request."""

    where: str = Field(description="the part of the request or of the server that is at fault")
    what: str = Field(description="what was received, or what happened")
    expected: str = Field(description="what was expected")
    do: str = Field(description="what to do about it")


class ErrorAnswer(BaseModel):
    """The body of every answer with a status of 400 or above."""

    error: ErrorDetail


class Problem(Exception):
    """A request that gets an error answer; `status` is the HTTP status."""

    def __init__(self, status: int, where: str, what: str, expected: str, do: str) -> None:
        super().__init__(f"{where}: {what} {expected} {do}")
        self.status = status
        self.answer = ErrorAnswer(error=ErrorDetail(where=where, what=what, expected=expected, do=do))

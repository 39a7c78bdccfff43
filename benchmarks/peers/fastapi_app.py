"""What a user would write without kodou: the same function behind an endpoint of their own."""

import numpy
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Numbers(BaseModel):
    values: list[float]


@app.post("/sum")
def total(numbers: Numbers) -> dict[str, float]:
    """As FastAPI's own manual has it for a function that computes: in a thread, so that it holds nobody up."""
    return {"value": float(numpy.array(numbers.values).sum())}


@app.post("/sum-async")
async def total_async(numbers: Numbers) -> dict[str, float]:
    """The quickest there is: on the event loop, where one slow call holds all others up."""
    return {"value": float(numpy.array(numbers.values).sum())}


class Call(BaseModel):
    args: list[list[float]]


@app.post("/echo")
def echo(call: Call) -> dict[str, list[float]]:
    return {"value": numpy.asarray(call.args[0]).tolist()}


@app.get("/ready")
def ready() -> dict[str, bool]:
    return {"ready": True}

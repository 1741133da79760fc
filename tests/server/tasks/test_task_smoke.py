from __future__ import annotations
from task_house import House, housed

@housed()
async def test_smoke(house: House) -> None:
    hand = await house.hand()
    task = await house.send(requestParts=[{"text": "hi"}])
    start = await hand.start()
    assert start["taskId"] == task
    assert await house.states(task) == ["running"]
    await hand.end(task)
    assert (await house.ended(task))["state"] == "completed"

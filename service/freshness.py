"""How current an answer has to be: what a request asks for, and what is refused as too old."""

from typing import Annotated

import anyio
from fastapi import Header, Request

from indexer.errors import IndexNotReady
from service.engine import Engine

_LOOK_S = 0.01
MinRevision = Annotated[
    int | None,
    Header(
        alias="Staydown-Min-Revision", ge=0, le=2**63 - 1,
        description="answer at this `bank_revision` or a later one: read your own writes through any replica",
    ),
]  # fmt: skip


async def at_revision(request: Request, wanted: int | None) -> None:
    """Wait until the index is at a revision, for as long as is set; IndexNotReady, also if it is out of date."""
    engine: Engine = request.app.state.engine
    if not engine.current:
        raise IndexNotReady("the store was not reached for too long to answer from the index")
    if wanted is None or engine.index.revision >= wanted:
        return
    engine.watch.nudge()
    with anyio.move_on_after(engine.settings.min_revision_wait_s):
        while engine.index.revision < wanted:
            await anyio.sleep(_LOOK_S)
        return
    raise IndexNotReady("the index is not at this revision yet; ask again in a moment")

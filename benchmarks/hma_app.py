"""What HMA's own Python runs for `benchmarks.hma`: this very file, as a script, with nothing of ours.

It fills HMA's database with random PDQ hashes, a content each, as many statements as tables, since HMA's
own way takes a minute for three thousand; then it has HMA build its index.
"""

import argparse
import importlib
import os
import random
import sys
from pathlib import Path
from typing import Any

BANK = "BENCH"
CONFIG = """
PRODUCTION = True
DATABASE_URI = {uri!r}
ROLE_HASHER = ROLE_MATCHER = ROLE_CURATOR = True
TASK_FETCHER = TASK_INDEXER = False
TASK_INDEX_CACHE = True
"""
_FILL = (
    "INSERT INTO bank (name, enabled_ratio) VALUES (:bank, 1.0)",
    "INSERT INTO bank_content (bank_id, disable_until_ts) SELECT id, 1 FROM bank, unnest(CAST(:codes AS text[]))",
    """INSERT INTO content_signal (content_id, signal_type, signal_val, create_time)
       SELECT content.id, 'pdq', code.value, now()
       FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM bank_content) AS content
       JOIN unnest(CAST(:codes AS text[])) WITH ORDINALITY AS code(value, place) ON code.place = content.place""",
)


def codes_of(count: int) -> list[str]:
    """Return random PDQ hashes in HMA's form."""
    chance = random.Random(3)
    return [f"{chance.getrandbits(256):064x}" for _ in range(count)]


def fill(source: Path, count: int) -> None:
    """Make HMA's tables, fill them, and have it build its index."""
    sys.path.insert(0, str(source))
    os.environ["MIGRATION_COMMAND"] = "1"  # or it asks for its tables before they are there
    app_of: Any = importlib.import_module("OpenMediaMatch.app")
    database: Any = importlib.import_module("OpenMediaMatch.storage.postgres.database").db
    text: Any = importlib.import_module("sqlalchemy").text
    build: Any = importlib.import_module("OpenMediaMatch.background_tasks.build_index").build_all_indices
    storage: Any = importlib.import_module("OpenMediaMatch.persistence").get_storage
    with app_of.create_app().app_context():
        database.create_all()
        for statement in _FILL:
            values = {"bank": BANK, "codes": codes_of(count)}
            database.session.execute(
                text(statement), {name: values[name] for name in values if f":{name}" in statement}
            )
        database.session.commit()
        build(storage(), storage(), storage())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Fill HMA's database and have it build its index")
    parser.add_argument("source", type=Path, help="the folder `src` of HMA")
    parser.add_argument("count", type=int, help="hashes")
    asked = parser.parse_args()
    fill(asked.source, asked.count)

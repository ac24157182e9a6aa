"""The shape of the record: every table, as SQLAlchemy knows it. Migrations follow this file.

`signal_pk` is never used twice (AUTOINCREMENT), since the index knows hashes by it.
A withdrawn content keeps its row as a tombstone, without any hash. A companion is a row of
`content` too, of which `lawful_of` says whose it is. That column has no foreign key: SQLite
adds one only by rebuilding the table, which would delete what hangs on it.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

from indexer.seals import Sealed, SealedEqually, SealedHex, SealedJson

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)
_Key = BigInteger().with_variant(Integer, "sqlite")

state = Table(
    "state",
    metadata,
    Column("state_pk", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("store_id", String(32), nullable=False),
    Column("audit_digest", LargeBinary, nullable=False),  # the last link of the audit chain
    Column("sealed_with", String(16)),  # id of the key that hashes are written with; null: plain
)

bank = Table(
    "bank",
    metadata,
    Column("bank_pk", Integer, primary_key=True),
    Column("name", String(128), nullable=False, unique=True),
    Column("description", Text, nullable=False, default=""),
    Column("enabled", Boolean, nullable=False, default=True),
    Column("policy", String(32), nullable=False, default="default"),
    Column("signal_types", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("lawful", Boolean, nullable=False, default=False, server_default=false()),
    Column("suppresses", JSON(none_as_null=True)),  # names of banks; null: all of its tenant
    Column("tenant", String(64), nullable=False, default="default", server_default="default"),
    Column("two_persons", Boolean, nullable=False, default=False, server_default=false()),
    sqlite_autoincrement=True,
)

source = Table(  # a name that contents come under, such as a partner's list
    "source",
    metadata,
    Column("source_pk", Integer, primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", String(32), nullable=False),
    UniqueConstraint("tenant", "name"),
)

export = Table(  # a request to read all hashes of a bank, which somebody else has to approve
    "export",
    metadata,
    Column("export_id", String(32), primary_key=True),
    Column("bank_pk", Integer, ForeignKey("bank.bank_pk", ondelete="CASCADE"), nullable=False),
    Column("requested_by", String(64), nullable=False),
    Column("requested_at", String(32), nullable=False),
    Column("expires_at", String(32), nullable=False),
    Column("approved_by", String(64)),
    Column("used_at", String(32)),
    info={"passing": True},
)

content = Table(
    "content",
    metadata,
    Column("content_pk", _Key, primary_key=True),
    Column("content_id", String(32), nullable=False, unique=True),
    Column("bank_pk", Integer, ForeignKey("bank.bank_pk", ondelete="CASCADE"), nullable=False),
    Column("fingerprint", SealedHex),  # null once withdrawn
    Column("revision", BigInteger, nullable=False, index=True),
    Column("enabled", Boolean, nullable=False, default=True),
    Column("kind", String(8), nullable=False),
    Column("width", Integer),
    Column("height", Integer),
    Column("duration_s", Float),
    Column("frames_hashed", Integer, nullable=False),
    Column("case_ref", Text),
    Column("labels", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("withdrawn_at", String(32)),
    Column("withdrawn_reason", Text),
    Column("lawful_of", _Key, index=True),  # content_pk of the content that this is a companion of
    Column("source_pk", Integer, index=True),  # where it came from; no foreign key: see lawful_of
    Column("proposed_by", String(64)),  # in a bank of two persons; disabled until it is approved
    Column("approved_by", String(64)),
    UniqueConstraint("bank_pk", "fingerprint"),
    Index("ix_content_live", "bank_pk", "withdrawn_at", "content_pk"),  # to count and to page
    sqlite_autoincrement=True,
)

signal = Table(
    "signal",
    metadata,
    Column("signal_pk", _Key, primary_key=True),
    Column("content_pk", _Key, ForeignKey("content.content_pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("profile", SmallInteger, nullable=False),
    Column("view", SmallInteger, nullable=False),
    Column("quality", SmallInteger, nullable=False),
    Column("timestamp_s", Float),
    Column("until_s", Float),
    Column("hash", Sealed, nullable=False),
    Column("held", String(16)),  # why a guard keeps it out of matching
    Column("released", Boolean, nullable=False, default=False, server_default=false()),  # by a reviewer, all the same
    sqlite_autoincrement=True,
)

sketch = Table(
    "sketch",
    metadata,
    Column("sketch_pk", _Key, primary_key=True),
    Column("content_pk", _Key, ForeignKey("content.content_pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("timestamp_s", Float),
    Column("until_s", Float),
    Column("data", Sealed, nullable=False),  # hashing.keypoints.pack_sketch
    Column("held", String(16)),
    Column("released", Boolean, nullable=False, default=False, server_default=false()),
    sqlite_autoincrement=True,
)

contrast = Table(
    "contrast",
    metadata,
    Column("contrast_pk", _Key, primary_key=True),
    Column("sketch_pk", _Key, ForeignKey("sketch.sketch_pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("content_pk", _Key, ForeignKey("content.content_pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("data", Sealed, nullable=False),  # how the companion looks where the sketch was taken
)

exact = Table(
    "exact",
    metadata,
    Column("exact_pk", _Key, primary_key=True),
    Column("content_pk", _Key, ForeignKey("content.content_pk", ondelete="CASCADE"), nullable=False, index=True),
    Column("signal_type", String(8), nullable=False),
    Column("digest", SealedEqually, nullable=False),
    Index("ix_exact_digest", "digest", "signal_type"),
)

api_key = Table(
    "api_key",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("name", Text, nullable=False, default=""),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("revoked_at", String(32)),
    Column("tenant", String(64), nullable=False, default="default", server_default="default"),
    Column("banks", JSON(none_as_null=True)),  # names; null: all of its tenant
    Column("networks", JSON(none_as_null=True)),  # from where it may be used; null: from anywhere
    Column("expires_at", String(32)),
    Column("pepper_id", String(16)),  # the pepper its digests are bound to; null: plain SHA-256
    Column("previous_digest", LargeBinary),  # of the secret before a rotation
    Column("previous_until", String(32)),
    Column("stopped_until", String(32)),  # refused at checks until then, or until a person lets it go
)

tenant_use = Table(  # how many requests a tenant made on a day, in all processes
    "tenant_use",
    metadata,
    Column("tenant", String(64), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("requests", BigInteger, nullable=False),
    info={"passing": True},
)

audit = Table(
    "audit",
    metadata,
    Column("seq", _Key, primary_key=True),
    Column("at", String(32), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("key_id", String(32), primary_key=True),
    Column("idempotency_key", String(255), primary_key=True),
    Column("request_digest", Sealed, nullable=False),
    Column("answer", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
)

rescan = Table(
    "rescan",
    metadata,
    Column("rescan_id", String(32), primary_key=True),
    Column("key_id", String(32), nullable=False),
    Column("banks", JSON, nullable=False),
    Column("created_at", String(32), nullable=False),
    Column("total", Integer, nullable=False),
)

rescan_item = Table(
    "rescan_item",
    metadata,
    Column("rescan_id", String(32), ForeignKey("rescan.rescan_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("request", SealedJson, nullable=False),
    Column("result", JSON(none_as_null=True)),
)

# Rescans that workers on any machine work off. An item's row goes when its result is there, and the result's
# when its line was written: nothing of this is part of the record, and no backup has it (`passing`).
queued_rescan = Table(
    "queued_rescan",
    metadata,
    Column("rescan_id", String(32), primary_key=True),
    Column("banks", JSON(none_as_null=True)),  # null: all
    Column("total", Integer, nullable=False),
    Column("submitted", Integer, nullable=False),
    Column("seen_at", String(32), nullable=False),  # when its submitter was last there
    info={"passing": True},
)

queued_item = Table(
    "queued_item",
    metadata,
    Column("rescan_id", String(32), ForeignKey("queued_rescan.rescan_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("request", Text, nullable=False),
    info={"passing": True},
)

queued_result = Table(
    "queued_result",
    metadata,
    Column("rescan_id", String(32), ForeignKey("queued_rescan.rescan_id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("result", Text, nullable=False),
    info={"passing": True},
)

queue_schema = Table(  # which migrations of procrastinate, which keeps the jobs, its tables have
    "queue_schema",
    metadata,
    Column("name", String(255), primary_key=True),
    info={"passing": True},
)

# Hashes of checked media whose sender agreed, kept for some days to be asked about what is enrolled later. No
# backup has them: it would keep them longer.
retro_signal = Table(
    "retro_signal",
    metadata,
    Column("retro_pk", _Key, primary_key=True),
    Column("retro_id", String(32), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("reference", String(200)),
    Column("kept_at", String(32), nullable=False, index=True),
    Column("banks", JSON(none_as_null=True)),  # those that were asked; null: all
    Column("known", JSON, nullable=False),  # ids of contents that the answer named
    Column("media", SealedJson, nullable=False),
    Column("frames", Sealed, nullable=False),  # FRAME_DTYPE
    Column("exact", SealedJson, nullable=False),
    info={"passing": True},
    sqlite_autoincrement=True,
)

retro_mark = Table(  # the revision up to which all that is kept was asked about
    "retro_mark",
    metadata,
    Column("mark_pk", Integer, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    info={"passing": True},
)

retro_match = Table(  # what was found; no hash
    "retro_match",
    metadata,
    Column("match_pk", _Key, primary_key=True),
    Column("retro_id", String(32), nullable=False),
    Column("content_id", String(32), nullable=False),
    Column("key_id", String(32), nullable=False),
    Column("reference", String(200)),
    Column("checked_at", String(32), nullable=False),
    Column("found_at", String(32), nullable=False, index=True),
    Column("match", JSON, nullable=False),
    UniqueConstraint("retro_id", "content_id"),
    sqlite_autoincrement=True,
)
